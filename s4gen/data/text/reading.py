"""Text files of any size as blocks of bytes, from any place on: `.txt` and `.jsonl`, gzipped or not."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from s4gen.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
TEXT_FIELD = "text"
"""The field of a `.jsonl` record that is read."""

BLOCK = 1 << 18
"""Bytes read at a time."""
LONGEST_LINE = 1 << 20
"""A longer line is cut at a space, or else between two characters, so that memory stays small."""


class Block(NamedTuple):
    """A part of a document: whole lines, except the last of a document and lines longer than `LONGEST_LINE`."""

    data: bytes
    start: int
    """Offset in the unpacked file of its first byte (of its record, in `.jsonl`)."""
    after: int
    """Where to go on reading."""
    ends: bool
    """It is the last block of its document: of a `.txt` file, or of one record."""


def read_blocks(path: Path, start: int = 0, end: int | None = None) -> Iterator[Block]:
    """Blocks of the unpacked bytes from `start`, where a block began, to `end` (None: to the end of the file).

    Raises:
        UserError: the file is missing, damaged, or no JSON Lines though its name says so.
    """
    read = _jsonl_blocks if is_jsonl(path) else _text_blocks
    with open_unpacked(path) as file:
        blocks = read(file, path, start, end)
        while (block := _next(blocks, path)) is not None:
            yield block


def is_jsonl(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def open_unpacked(path: Path) -> BinaryIO:
    """The file, as if it were not gzipped.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is missing, damaged or unreadable ({error}): copy or download it again")


def unpacked_size(path: Path) -> int:
    """Bytes of the unpacked file; a gzipped one is read through for it.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with open_unpacked(path) as file:
            if path.suffix != ".gz":
                return file.seek(0, io.SEEK_END)
            return sum(len(part) for part in iter(lambda: file.read(BLOCK), b""))
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def line_start(path: Path, offset: int) -> int:
    """Where the first line begins that begins at `offset` or later; the size of the file where there is none.

    Raises:
        UserError: the file is missing or damaged.
    """
    if offset == 0:
        return 0
    try:
        with open_unpacked(path) as file:
            file.seek(offset - 1)
            while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
                pass
            return file.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def _next(blocks: Iterator[Block], path: Path) -> Block | None:
    try:
        return next(blocks, None)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def _text_blocks(file: BinaryIO, path: Path, start: int, end: int | None) -> Iterator[Block]:
    file.seek(start)
    held = b""  # read, and not given out; never empty after the first read, so that the last block is known as such
    while True:
        wanted = BLOCK - len(held) % BLOCK  # so that where it is cut depends on `start` and the text alone
        part = file.read(wanted if end is None else min(wanted, end - start - len(held)))
        if not part:
            break
        held += part
        if cut := _cut(held):
            yield Block(held[:cut], start, start + cut, False)
            held, start = held[cut:], start + cut
    if held:
        yield Block(held, start, start + len(held), True)


def _cut(held: bytes) -> int:
    """Where to cut so that whole lines go and at least a byte stays; 0: not yet."""
    cut = held.rfind(b"\n", 0, len(held) - 1) + 1
    if cut or len(held) < LONGEST_LINE:
        return cut
    if (cut := held.rfind(b" ", 1)) > 0:
        return cut  # before the space, as a word begins with it
    last = len(held) - 1
    starts = (i for i in range(last, last - 4, -1) if held[i] & 0xC0 != 0x80)
    return next(starts, last)


def _jsonl_blocks(file: BinaryIO, path: Path, start: int, end: int | None) -> Iterator[Block]:
    file.seek(start)
    while (end is None or start < end) and (line := file.readline()):
        after = start + len(line)
        if line.strip():
            yield Block(_record_text(line, path, start), start, after, True)
        start = after


def _record_text(line: bytes, path: Path, start: int) -> bytes:
    try:
        return _text_of(json.loads(line.decode("utf-8"))).encode("utf-8")
    except (ValueError, RecursionError) as error:  # json's, Unicode's and ours
        reason = " ".join(str(error).split())
        raise UserError(
            f'{path}: the record at byte {start} is not a JSON object with a string "{TEXT_FIELD}" ({reason}); '
            "correct or remove it"
        ) from error


def _text_of(record: object) -> str:
    text = record.get(TEXT_FIELD) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'no string "{TEXT_FIELD}"')
    return text
