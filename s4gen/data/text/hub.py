"""Download WikiText through `datasets`, for those who have no copy of their own."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s4gen.errors import UserError
from s4gen.files.folders import cache_folder
from s4gen.files.unfinished import unfinished
from s4gen.showing.progress import progress_bar

REPOSITORY = "Salesforce/wikitext"

WORDS = {
    ("wikitext-2", "train"): 2_088_628,
    ("wikitext-103", "train"): 103_227_021,
    ("wikitext-2", "validation"): 217_646,
    ("wikitext-103", "validation"): 217_646,
    ("wikitext-2", "test"): 245_569,
    ("wikitext-103", "test"): 245_569,
}
"""Published numbers of words, `<eos>` of every line included: what was downloaded must have as many."""

ROWS_AT_A_TIME = 1000


def download(name: str, split: str) -> Path:
    """Return a split as one file in the form of the original, made of the hub's rows once, in the user's cache.

    Raises:
        UserError: it is neither there nor to be had; the message says how to get it.
    """
    path = cache_folder() / "wikitext" / name / f"{split}.txt.gz"
    if path.is_file():
        return path
    print(f"s4gen: asking the hub for {name}, which is not in S4GEN_DATA", file=sys.stderr)
    rows = _rows(name, split)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary:
            words = _write(rows, temporary, f"{name} {split}")
            if words != WORDS[name, split]:
                raise UserError(
                    f"{REPOSITORY} gave {words} words for the {split} split of {name}, expected {WORDS[name, split]}: "
                    "delete it from the cache of `datasets` and try again, or set S4GEN_DATA"
                )
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): free some space, or set S4GEN_CACHE to another folder"
        ) from error
    return path


def _rows(name: str, split: str) -> Any:
    try:
        from datasets import load_dataset

        return load_dataset(REPOSITORY, f"{name}-v1", split=split)
    except Exception as error:  # the hub's, the network's and datasets' own kinds
        file = f"wikitext/{name}/wiki.{'valid' if split == 'validation' else split}.tokens.gz"
        raise UserError(
            f"no {split} split of {name}: S4GEN_DATA names no folder that holds {file}, and loading {REPOSITORY} "
            f"through `datasets` failed ({error}); connect to the network, or set S4GEN_DATA"
        ) from error


def _write(rows: Any, path: Path, description: str) -> int:
    """Write the rows as lines; return the number of words."""
    words = 0
    bar = progress_bar(len(rows), "lines", True, description)
    with gzip.GzipFile(path, "wb", mtime=0) as file, bar:
        for begin in range(0, len(rows), ROWS_AT_A_TIME):
            texts = rows[begin : begin + ROWS_AT_A_TIME]["text"]
            lines = [text or " \n" for text in texts]  # the hub's form of an empty line
            words += sum(len(line.split()) + 1 for line in lines)
            file.write("".join(lines).encode("utf-8"))
            bar.update(len(lines))
    return words


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; the file takes the place of `path` when the block has ended."""
    with unfinished(path) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
