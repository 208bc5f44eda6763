"""Make the mini corpus again:  S4GEN_DATA=FOLDER python -m s4gen.data.text.mini.make

From the same text and zlib the files come out byte for byte the same.
"""

from __future__ import annotations

import gzip
import re

from s4gen.data.text.corpus import MINI, open_corpus
from s4gen.files.atomic import write_file_atomic

LIMITS = {"validation": {"train": 290_000, "validation": 62_000}, "test": {"test": 60_000}}
"""From each split of WikiText-2, in order: the splits made of it, and the bytes that each of them may have."""

TITLE = re.compile(rb"(?m)^ = [^=].* = \n(?= \n)")


def articles(split: str) -> list[bytes]:
    """Return the articles of a split of WikiText-2, each from the empty line before its title; joined they are it."""
    text = b"".join(block.data for block in open_corpus("wikitext-2", split).blocks())
    starts = [match.start() - len(b" \n") for match in TITLE.finditer(text)]
    return [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def make(source: str) -> None:
    """Write the splits that are made of one split of WikiText-2, beside this file: as many whole articles as fit."""
    left = articles(source)
    for split, limit in LIMITS[source].items():
        taken = b""
        while len(taken) + len(left[0]) <= limit:
            taken += left.pop(0)
        write_file_atomic(MINI / f"{split}.txt.gz", gzip.compress(taken, 9, mtime=0))


if __name__ == "__main__":
    for source in LIMITS:
        make(source)
