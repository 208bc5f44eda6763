"""Generated data sets in the cache: made once of their parameters, in pieces, so that an interrupted one goes on.

A set that is being made is the folder `NAME.begun`, which is renamed to NAME when it is whole. Its file `done` tells
how far the other files are complete. What stands behind that is made again, and comes out as the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s4gen.data.examples import Examples
from s4gen.data.labelled.rows import end_to_end
from s4gen.files.atomic import discard, read_consistent, write_error, write_file_atomic
from s4gen.files.folders import cache_folder, locked
from s4gen.showing.progress import progress_bar

_VERSION = 1
PIECE = 250
"""After so many examples, what was made is kept even if the program dies. On Path-X that takes two minutes."""

Make = Callable[[int], Generator[tuple[NDArray[np.uint8], int], None, None]]


def generated(
    name: str,
    parameters: Mapping[str, Any],
    counts: tuple[int, int, int],
    examples: Make,
    progress: bool = False,
) -> tuple[Examples, Examples, Examples]:
    """Return train, validation and test split of a generated set, from the cache where it has been made before.

    Args:
        name: the set; part of the folder's name.
        parameters: everything that `examples` depend on, fit for JSON.
        counts: how many examples each split has.
        examples: makes rows of tokens (L,) with their classes, as many as are asked for, from the example of a given
            number on; the first ones are for training.
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


def _made(folder: Path, name: str, key: Mapping[str, Any], count: int, examples: Make, progress: bool) -> Examples:
    """Return what another process has made meanwhile, or else make it."""
    try:
        return read_consistent(folder, _read)
    except (OSError, ValueError, KeyError):
        begun = folder.with_name(f"{folder.name}.begun")
        begun.mkdir(exist_ok=True)
        try:
            _fill(begun, name, key, count, examples, progress)
        except BaseException:
            if not _done(begun).examples:
                shutil.rmtree(begun, ignore_errors=True)
            raise
        discard(folder)  # it is damaged, or not there
        os.rename(begun, folder)
        (folder / "done").unlink()
        return read_consistent(folder, _read)


class _Done(NamedTuple):
    """These numbers of examples and tokens have been written in full."""

    examples: int = 0
    tokens: int = 0


def _done(begun: Path) -> _Done:
    """Read how far a folder is complete; one that does not say it, or has less, begins anew."""
    try:
        found = _Done(*map(int, (begun / "done").read_text("ascii").split()))
        lengths = np.fromfile(begun / "lengths", "<i4", found.examples)
        sizes = [(begun / name).stat().st_size for name in ("tokens", "targets")]
    except (OSError, ValueError, TypeError):
        return _Done()
    fits = sizes[0] >= found.tokens == lengths.sum() and sizes[1] >= 2 * found.examples == 2 * len(lengths)
    return found if fits else _Done()


def _fill(begun: Path, name: str, key: Mapping[str, Any], count: int, examples: Make, progress: bool) -> None:
    """Write `count` examples: tokens end to end, lengths, classes, and the parameters for who wants to know."""
    done = _done(begun)
    if done.examples and progress:
        print(f"s4gen: {name} goes on behind the {done.examples:,} examples that were made before", file=sys.stderr)
    with (
        contextlib.closing(examples(done.examples)) as made,
        contextlib.ExitStack() as opened,
        progress_bar(count, "ex", progress, f"generating {name}", initial=done.examples) as bar,
    ):
        files = [opened.enter_context(_opened(begun / name)) for name in ("tokens", "lengths", "targets")]
        while piece := list(itertools.islice(made, min(PIECE, count - done.examples))):
            rows = [row for row, _ in piece]
            tokens, lengths = np.concatenate(rows).tobytes(), np.array([len(row) for row in rows], "<i4").tobytes()
            targets = np.array([target for _, target in piece], "<i2").tobytes()
            places = done.tokens, 4 * done.examples, 2 * done.examples
            for file, place, content in zip(files, places, (tokens, lengths, targets), strict=True):
                file.seek(place)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            done = _Done(done.examples + len(piece), done.tokens + len(tokens))
            write_file_atomic(begun / "done", f"{done.examples} {done.tokens}".encode())
            bar.update(len(piece))
        for file, size in zip(files, (done.tokens, 4 * done.examples, 2 * done.examples), strict=True):
            file.truncate(size)
    (begun / "parameters.json").write_text(json.dumps(key, indent=1), encoding="utf-8")


def _opened(path: Path) -> BinaryIO:
    """Open a file to write anywhere in it; it is made if it is missing."""
    path.touch()
    return path.open("r+b")


def _read(directory: Path) -> Examples:
    """Return all examples of a finished folder. Raises OSError or ValueError if it is not whole."""
    lengths = np.fromfile(directory / "lengths", "<i4").astype(np.int64)
    targets = np.fromfile(directory / "targets", "<i2").astype(np.int64)
    tokens = np.memmap(directory / "tokens", np.uint8, "r")
    if len(lengths) != len(targets) or lengths.sum() != len(tokens):
        raise ValueError("the files do not fit together")
    return Examples(end_to_end(tokens, lengths), targets)
