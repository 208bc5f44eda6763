"""The file that compressed files are kept in: a header, and behind it the coded blocks of one file after another.

    8 bytes    magic: a byte that is no text, "S4Z", and line ends, which a transfer as text would change
    2 bytes    version of the format, little-endian, as all numbers
    4 bytes    size of the header
    4 bytes    CRC-32 of the header
    header     16 bytes of the model's SHA-256, 8 bytes of the engine's signature, kind, engine and target as texts,
               length of every file or 0, flags, number of files; then for each file
                   name, length unless all have one, class if there are classes, extra bytes of its kind,
                   and for each block of 2^15 values: its size in words of 4 bytes, CRC-32 of the coded bytes, CRC-32
                   of the decoded values
    blocks     words of 4 bytes

Sizes, lengths and texts begin with a number of variable size: 7 bits a byte, the lowest first. Every byte of the file
is covered by a checksum or compared with what it must be, so a file that was cut or changed is refused as a whole.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from s4gen.compress.varints import Reader, number, with_size
from s4gen.config.names import KINDS

MAGIC = b"\x89S4Z\r\n\x1a\n"
VERSION = 1
BLOCK = 1 << 15
"""Values in a block. The coder ends with each of them, so that decoding that goes wrong is found out early."""
MODEL_BYTES, SIGNATURE_BYTES = 16, 8
LONGEST_NAME = 255
"""Bytes of a name that file systems can hold."""
MOST_VALUES = 1 << 40
"""Values of a file; more are nothing that anybody has coded."""
WORD = 4
_PREFIX = struct.Struct("<8sHII")
_CHECKSUMS = struct.Struct("<II")
_LABELLED = 1


@dataclass(frozen=True)
class Block:
    """Some values of a file in coded form."""

    coded: bytes
    """The output of the coder, in words of 4 bytes."""
    checksum: int
    """CRC-32 of the values."""


@dataclass(frozen=True)
class Entry:
    """A file."""

    name: bytes
    """The name under which it comes back, or what its kind keeps of it; never a path."""
    length: int
    """Tokens."""
    extra: bytes
    """The bytes that its kind needs beside tokens."""
    blocks: tuple[Block, ...]
    label: int = 0
    """The class that it is coded as, where the model is conditional on classes."""


@dataclass(frozen=True)
class Container:
    """All that a compressed file says."""

    model: bytes
    """The first bytes of the SHA-256 of the model's files."""
    signature: bytes
    """The first bytes of the SHA-256 of what the engine computes for the model."""
    kind: str
    """image, text or audio."""
    engine: str
    """The engine that the predictions came from, its precision included."""
    target: str
    """The target that the engine was compiled for, or the version of the library that it ran with."""
    entries: tuple[Entry, ...]
    length: int = 0
    """The length of every file; 0: each has its own."""
    labelled: bool = False
    """Whether entries have classes."""


def count_blocks(length: int) -> int:
    """Return how many blocks hold so many values."""
    return -(-length // BLOCK)


def pack(container: Container) -> bytes:
    """Return the bytes of a container."""
    head = [container.model, container.signature]
    head += [
        with_size(value) for value in (container.kind.encode(), container.engine.encode(), container.target.encode())
    ]
    head += [number(container.length), number(container.labelled), number(len(container.entries))]
    for entry in container.entries:
        head.append(with_size(entry.name))
        if not container.length:
            head.append(number(entry.length))
        if container.labelled:
            head.append(number(entry.label))
        head.append(with_size(entry.extra))
        for block in entry.blocks:
            head.append(number(len(block.coded) // WORD))
            head.append(_CHECKSUMS.pack(zlib.crc32(block.coded), block.checksum))
    header = b"".join(head)
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header))
    return b"".join([prefix, header, *(block.coded for entry in container.entries for block in entry.blocks)])


def unpack(content: bytes) -> Container:
    """Invert `pack`.

    Raises:
        ValueError: these are not the bytes of a container, or some of them are missing, changed or too many; the
            message says what is wrong.
    """
    if not content.startswith(MAGIC):
        raise ValueError("it does not begin as one")
    if len(content) < _PREFIX.size:
        raise ValueError("it is cut off in its header")
    _, version, size, checksum = _PREFIX.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"it has format version {version}, expected {VERSION}")
    header = content[_PREFIX.size : _PREFIX.size + size]
    if len(header) < size:
        raise ValueError("it is cut off in its header")
    if zlib.crc32(header) != checksum:
        raise ValueError("its header was changed")
    return _unpacked(Reader(header), memoryview(content)[_PREFIX.size + size :])


def _unpacked(header: Reader, coded: memoryview) -> Container:
    """Read a header whose checksum is right, and cut the blocks behind it."""
    model, signature = header.take(MODEL_BYTES), header.take(SIGNATURE_BYTES)
    kind, engine, target = (header.text(64).decode("ascii") for _ in range(3))
    if kind not in KINDS:
        raise ValueError("it is of an unknown kind")
    length, labelled, count = header.number(MOST_VALUES), header.number(_LABELLED), header.number()
    entries: list[Entry] = []
    at = 0
    for _ in range(count):
        name = checked_name(header.text())
        own = length or header.number(MOST_VALUES)
        label = header.number() if labelled else 0
        extra = header.text()
        blocks: list[Block] = []
        for _ in range(count_blocks(own)):
            size = header.number() * WORD
            checksum, of_values = _CHECKSUMS.unpack(header.take(_CHECKSUMS.size))
            piece = bytes(coded[at : at + size])
            if len(piece) < size:
                raise ValueError("it is cut off")
            if zlib.crc32(piece) != checksum:
                raise ValueError(f"block {len(blocks)} of file {len(entries)} was changed")
            blocks.append(Block(piece, of_values))
            at += size
        entries.append(Entry(name, own, extra, tuple(blocks), label))
    if not header.at_end or at != len(coded):
        raise ValueError("there are bytes behind its end")
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("it has one name twice")
    return Container(model, signature, kind, engine, target, tuple(entries), length, bool(labelled))


def checked_name(name: bytes) -> bytes:
    """Return a name, unless it would lead out of the folder that files are written to, or is too long for a file.

    Raises:
        ValueError: it would.
    """
    if len(name) > LONGEST_NAME or name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError("a name in it is none that a file can have")
    return name
