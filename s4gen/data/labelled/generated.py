"""Generated data sets in the cache: made once of their parameters, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.data.examples import Examples
from s4gen.data.labelled.rows import end_to_end
from s4gen.files.atomic import read_consistent, write_atomic, write_error
from s4gen.files.folders import cache_folder, locked
from s4gen.showing.progress import progress_bar

_VERSION = 1


def generated(
    name: str,
    parameters: Mapping[str, Any],
    counts: tuple[int, int, int],
    examples: Generator[tuple[NDArray[np.uint8], int], None, None],
    progress: bool = False,
) -> tuple[Examples, Examples, Examples]:
    """Return train, validation and test split of a generated set, from the cache where it has been made before.

    Args:
        name: the set; part of the folder's name.
        parameters: everything that `examples` depend on, fit for JSON.
        counts: how many examples each split has.
        examples: rows of tokens (L,) with their classes, as many as are asked for; the first ones are for training.
        progress: show on standard error how many there are already.

    Raises:
        UserError: what `examples` raise; the cache cannot be written.
    """
    key = {"version": _VERSION, "set": name, **parameters, "counts": list(counts)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "generated" / f"{name}-{digest}"
    try:
        found = read_consistent(folder, _read)
    except (OSError, ValueError, KeyError):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(folder.with_name(f"{folder.name}.lock"), lambda: _say_waiting(name))
            with lock:
                found = _made(folder, name, key, sum(counts), examples, progress)
        except OSError as error:
            raise write_error(error, folder) from error
    ends = np.cumsum(counts)
    train, validation, test = (
        Examples(found.inputs[end - count : end], found.targets[end - count : end])
        for end, count in zip(ends.tolist(), counts, strict=True)
    )
    return train, validation, test


def _say_waiting(name: str) -> None:
    print(f"s4gen: waiting for another process that generates {name}", file=sys.stderr)


def _made(
    folder: Path,
    name: str,
    key: Mapping[str, Any],
    count: int,
    examples: Generator[tuple[NDArray[np.uint8], int], None, None],
    progress: bool,
) -> Examples:
    """Return what another process has made meanwhile, or else make it."""
    try:
        return read_consistent(folder, _read)
    except (OSError, ValueError, KeyError):
        write_atomic(folder, lambda directory: _fill(directory, name, key, count, examples, progress))
        return read_consistent(folder, _read)


def _fill(
    directory: Path,
    name: str,
    key: Mapping[str, Any],
    count: int,
    examples: Generator[tuple[NDArray[np.uint8], int], None, None],
    progress: bool,
) -> None:
    """Write `count` examples: tokens end to end, lengths, classes, and the parameters for who wants to know."""
    lengths, targets = np.empty(count, "<i4"), np.empty(count, "<i2")
    with (
        contextlib.closing(examples),
        (directory / "tokens").open("wb") as file,
        progress_bar(count, "ex", progress, f"generating {name}") as bar,
    ):
        for number in range(count):
            row, targets[number] = next(examples)
            lengths[number] = len(row)
            file.write(row.tobytes())
            bar.update(1)
    (directory / "lengths").write_bytes(lengths.tobytes())
    (directory / "targets").write_bytes(targets.tobytes())
    (directory / "parameters.json").write_text(json.dumps(key, indent=1), encoding="utf-8")


def _read(directory: Path) -> Examples:
    """Return all examples of a finished folder. Raises OSError or ValueError if it is not whole."""
    lengths = np.fromfile(directory / "lengths", "<i4").astype(np.int64)
    targets = np.fromfile(directory / "targets", "<i2").astype(np.int64)
    tokens = np.memmap(directory / "tokens", np.uint8, "r")
    if len(lengths) != len(targets) or lengths.sum() != len(tokens):
        raise ValueError("the files do not fit together")
    return Examples(end_to_end(tokens, lengths), targets)
