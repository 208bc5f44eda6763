"""Read text files of any size in pieces of bytes, from any position on: plain or JSON Lines, gzipped or not."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from s4gen.data.gzipped import open_gzipped
from s4gen.errors import UserError, shortened
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import open_regular

TEXT_FIELD = "text"
"""The field of a `.jsonl` record that is read."""

BLOCK = 1 << 18
"""Bytes read at a time."""
LONGEST_LINE = 1 << 20
"""A longer line is cut at a space, or else between two characters, so that memory stays small."""


LONGEST_RECORD = 1 << 26
"""Bytes of a record of JSON Lines, which is parsed as a whole; a longer one is refused."""

BYTE_ORDER_MARK = codecs.BOM_UTF8
"""Some editors put it in front of a text, of which it is no part."""

WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""In this order, for one is the beginning of another."""

Part = tuple[float, float]
"""From where to where, as fractions of a text's length."""


class Block(NamedTuple):
    """A piece of a document: whole lines, except the last of a document and lines longer than `LONGEST_LINE`."""

    data: bytes
    start: int
    """Offset in the unpacked file of its first byte (of its record, in `.jsonl`)."""
    after: int
    """The position from which to go on reading."""
    ends: bool
    """Whether it is the last piece of its document, which is a `.txt` file or one record."""


def read_blocks(path: Path, start: int = 0, end: int | None = None, part: Part | None = None) -> Iterator[Block]:
    """Yield the unpacked bytes from `start`, where a piece began, to `end` (None: to the end of the file), in pieces.

    With `part`, for JSON Lines alone, of each record that part of its text. A byte order mark at the beginning of the
    file, or of a record's text, is left out.

    Raises:
        UserError: the file is missing, damaged, or no JSON Lines though its name says so.
    """
    with open_unpacked(path) as file:
        start = max(start, _mark(file, path))
        jsonl = is_jsonl(path)
        blocks = _jsonl_blocks(file, path, start, end, part) if jsonl else _text_blocks(file, path, start, end)
        while (block := _next(blocks, path)) is not None:
            yield block


def is_jsonl(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".jsonl")


def _mark(file: BinaryIO, path: Path) -> int:
    """Return the number of bytes of the byte order mark at the beginning of an open file.

    Raises:
        UserError: it is JSON Lines in UTF-16, of which no line can be read, or other text whose mark says that it is in
        UTF-16 or UTF-32. (Without a mark, bytes may be meant.)
    """
    try:
        begin = file.read(256)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    if is_jsonl(path) or begin.startswith(tuple(WIDE_MARKS)):
        refuse_wide(begin, path)
    return len(BYTE_ORDER_MARK) if begin.startswith(BYTE_ORDER_MARK) else 0


def refuse_wide(begin: bytes, path: Path) -> None:
    """Refuse a text that begins in an encoding of several bytes a letter.

    Raises:
        UserError: its mark, or the zeros between its letters, say so.
    """
    if name := _wide_encoding(begin[:256]):
        raise UserError(
            f"{path} is text in {name}: expected UTF-8; convert it, for example with iconv -f {name} -t UTF-8"
        )


def _wide_encoding(begin: bytes) -> str | None:
    for mark, name in WIDE_MARKS.items():
        if begin.startswith(mark):
            return name
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, letters = begin[first::2], begin[1 - first :: 2]
        if len(begin) >= 4 and not any(zeros) and all(letters):
            return name
    return None


def is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file as if it were not gzipped.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return open_gzipped(path) if is_packed(path) else open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is missing, damaged or unreadable ({error}): copy or download it again")


def unpacked_size(path: Path) -> int:
    """Return the size of the unpacked file in bytes; a gzipped one is read through for it.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with open_unpacked(path) as file:
            if not is_packed(path):
                return file.seek(0, io.SEEK_END)
            return sum(len(part) for part in iter(lambda: file.read(BLOCK), b""))
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def line_start(path: Path, offset: int) -> int:
    """Return where the first line begins that begins at `offset` or later; the size of the file if there is none near.

    Near is within `LONGEST_RECORD` bytes: a file of holes may have a terabyte without a line's end.

    Raises:
        UserError: the file is missing or damaged.
    """
    if offset == 0:
        return 0
    try:
        with open_unpacked(path) as file:
            file.seek(offset - 1)
            while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
                if file.tell() - offset > LONGEST_RECORD:
                    return unpacked_size(path)
            return file.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def text_start(path: Path, offset: int, width: int) -> int:
    """Return where to cut a text without a line's end in a good position: before the first space from `offset` on.

    Where there is none within `width` bytes, before the first character from `offset` on.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open_unpacked(path) as file:
            file.seek(offset)
            held = file.read(min(max(width, 4), LONGEST_LINE))
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    return offset + place_to_cut(held, width)


def place_to_cut(data: bytes, width: int) -> int:
    """Return where the first space in the first `width` bytes is, else the first byte that begins a character."""
    if (space := data.find(b" ", 0, width)) >= 0:
        return space  # before it, as a word begins with it
    return next((i for i in range(min(4, len(data))) if data[i] & 0xC0 != 0x80), 0)


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
    """Return where to cut so that whole lines go and at least a byte stays; 0 means not yet."""
    cut = held.rfind(b"\n", 0, len(held) - 1) + 1
    if cut or len(held) < LONGEST_LINE:
        return cut
    if (cut := held.rfind(b" ", 1)) > 0:
        return cut  # before the space, as a word begins with it
    last = len(held) - 1
    starts = (i for i in range(last, last - 4, -1) if held[i] & 0xC0 != 0x80)
    return next(starts, last)


def _jsonl_blocks(file: BinaryIO, path: Path, start: int, end: int | None, part: Part | None) -> Iterator[Block]:
    file.seek(start)
    while (end is None or start < end) and (line := file.readline(LONGEST_RECORD + 1)):
        if len(line) > LONGEST_RECORD:
            raise UserError(
                f"{path}: the record at byte {start} has more than {LONGEST_RECORD:,} bytes; cut its text into several"
            )
        after = start + len(line)
        if line.strip():
            text = _record_text(line, path, start).removeprefix(BYTE_ORDER_MARK)
            yield Block(text if part is None else _part_of(text, part), start, after, True)
        start = after


def _part_of(text: bytes, part: Part) -> bytes:
    """Return a part of a record's text, cut at spaces if there are any."""
    begin, end = (round(len(text) * position) for position in part)
    width = max(1, len(text) // 50)
    begin, end = (at + place_to_cut(text[at:], width) if 0 < at < len(text) else at for at in (begin, end))
    return text[begin:end]


def _record_text(line: bytes, path: Path, start: int) -> bytes:
    try:
        return _text_of(json_value(line.decode("utf-8"), LONGEST_RECORD, finite=False)).encode("utf-8")
    except ValueError as error:  # of the parser, of Unicode, and ours
        raise UserError(
            f"{path}: the record at byte {start} is not a JSON object with a string "
            f'"{TEXT_FIELD}" ({shortened(reason(error))}); correct or remove it'
        ) from error


def _text_of(record: object) -> str:
    text = record.get(TEXT_FIELD) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'no string "{TEXT_FIELD}"')
    return text
