"""The file that compressed files are kept in: a header, and behind it the coded blocks of one file after another.

    3 bytes    magic: a byte that is no text, and "S4"
    1 byte     version of the format
    4 bytes    CRC-32 of all bytes behind it, little-endian, as all numbers
    header     3 bytes of the model's SHA-256, 3 bytes of the engine's signature,
               a number of flags: whether there is one file alone, whether all have one length, whether they have
               classes, whether they have extra bytes; the kind from bit 4 on,
               a number for engine and target, and as texts those of them that have no number,
               the number of files unless there is one, the length of all of them if they have one; for each file
                   name, length unless all have one, class if there are classes, extra bytes of its kind if there are,
                   and for each block of 2^15 values: CRC-32 of the decoded values, and its size in words of 4 bytes;
                   the last block of the container takes what is left, so its size is not said
    blocks     words of 4 bytes

Sizes, lengths and texts begin with a number of variable size: 7 bits a byte, the lowest first. Every byte of the file
is covered by a checksum or compared with what it must be, so a file that was cut or changed is refused as a whole.

The bytes of model and signature are few, because a small text must not pay for a long header: another model passes both
of them once in 2^48 times, and is then found out by the checksum of the first decoded block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from s4gen.compress.varints import Reader, number, with_size
from s4gen.config.names import KINDS
from s4gen.files.unfinished import LONGEST_NAME

MAGIC = b"\x89S4"
VERSION = 2
BLOCK = 1 << 15
"""Values in a block. The coder ends with each of them, so that decoding that goes wrong is found out early."""
MODEL_BYTES, SIGNATURE_BYTES = 3, 3
MOST_VALUES = 1 << 28
"""Values of all files in a container, which is what many hours of coding take."""
MOST_BYTES = 1 << 30
"""Bytes of a container: 4 for each of so many values."""
WORD = 4
_PREFIX = struct.Struct("<3sBI")
_CHECKSUM = struct.Struct("<I")
_SINGLE, _EQUAL, _LABELLED, _EXTRA = 1, 2, 4, 8
_KIND_FROM = 4
"""The bit of the flags from which on the kind stands."""
_ENGINES = ("native", "eager", "native-bf16", "native-int8")
_TARGETS = ("native", "x86-64-v3", "x86-64-v4", "x86-64-v2", "armv8-a", "baseline")
"""Numbers of engines and targets are places in these lists, and those of kinds in `KINDS`, so names may be added only
at their ends."""
_PLACES = 16
"""Targets that there can be numbers for."""
_LONGEST_TEXT = 64
"""Bytes of the name of an engine or a target."""


class OtherVersionError(ValueError):
    """The bytes are of another version of the format."""


@dataclass(frozen=True)
class Block:
    """Some values of a file in coded form."""

    coded: bytes
    """The output of the coder, in words of 4 bytes."""
    checksum: int
    """CRC-32 of the values, as `coding` makes it."""


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
    entries = container.entries
    flags = {
        _SINGLE: len(entries) == 1,
        _EQUAL: bool(container.length),
        _LABELLED: container.labelled,
        _EXTRA: any(entry.extra for entry in entries),
    }
    head = [
        container.model,
        container.signature,
        number((KINDS.index(container.kind) << _KIND_FROM) + sum(flag for flag, holds in flags.items() if holds)),
        _way(container.engine, container.target),
    ]
    if not flags[_SINGLE]:
        head.append(number(len(entries)))
    if flags[_EQUAL]:
        head.append(number(container.length))
    for place, entry in enumerate(entries, 1):
        head.append(with_size(entry.name))
        if not flags[_EQUAL]:
            head.append(number(entry.length))
        if flags[_LABELLED]:
            head.append(number(entry.label))
        if flags[_EXTRA]:
            head.append(with_size(entry.extra))
        for number_of_block, block in enumerate(entry.blocks, 1):
            head.append(_CHECKSUM.pack(block.checksum))
            if (place, number_of_block) != (len(entries), len(entry.blocks)):
                head.append(number(len(block.coded) // WORD))
    content = b"".join([*head, *(block.coded for entry in entries for block in entry.blocks)])
    return _PREFIX.pack(MAGIC, VERSION, zlib.crc32(content)) + content


def unpack(content: bytes) -> Container:
    """Invert `pack`.

    Raises:
        ValueError: these are not the bytes of a container, or some of them are missing, changed or too many; the
            message says what is wrong.
    """
    if not content.startswith(MAGIC):
        raise ValueError("it does not begin as one")
    if len(content) < _PREFIX.size:
        raise ValueError("it was cut off in its header")
    _, version, checksum = _PREFIX.unpack_from(content)
    if version != VERSION:
        raise OtherVersionError(f"it has format version {version}, and this s4gen reads {VERSION}")
    if zlib.crc32(memoryview(content)[_PREFIX.size :]) != checksum:
        raise ValueError("it was cut or changed")
    return _unpacked(Reader(content[_PREFIX.size :]))


def _way(engine: str, target: str) -> bytes:
    """Return the bytes of an engine and a target: one number for both, 0 standing for a name that follows as a text."""
    places = [names.index(name) + 1 if name in names else 0 for name, names in ((engine, _ENGINES), (target, _TARGETS))]
    texts = [with_size(name.encode()) for name, place in zip((engine, target), places, strict=True) if not place]
    return b"".join([number(places[0] * _PLACES + places[1]), *texts])


def _read_way(header: Reader) -> list[str]:
    """Invert `_way`."""
    found = []
    for names, place in zip((_ENGINES, _TARGETS), divmod(header.number(), _PLACES), strict=True):
        if place > len(names):
            raise ValueError("an engine or a target in it is unknown")
        found.append(names[place - 1] if place else header.text(_LONGEST_TEXT).decode("ascii"))
    return found


def _unpacked(header: Reader) -> Container:
    """Read all that stands behind the checksum."""
    model, signature = header.take(MODEL_BYTES), header.take(SIGNATURE_BYTES)
    kind, flags = divmod(header.number(), 1 << _KIND_FROM)
    if kind >= len(KINDS):
        raise ValueError("it is of an unknown kind")
    engine, target = _read_way(header)
    count = 1 if flags & _SINGLE else header.number()
    length = header.number(MOST_VALUES) if flags & _EQUAL else 0
    entries: list[Entry] = []
    sizes: list[int] = []
    values = 0
    for place in range(1, count + 1):
        name = checked_name(header.text())
        own = length or header.number(MOST_VALUES)
        if (values := values + own) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values")
        label = header.number() if flags & _LABELLED else 0
        extra = header.text() if flags & _EXTRA else b""
        checksums = []
        for left in reversed(range(count_blocks(own))):
            checksums.append(_CHECKSUM.unpack(header.take(_CHECKSUM.size))[0])
            if left or place < count:
                sizes.append(header.number() * WORD)
        entries.append(Entry(name, own, extra, tuple(Block(b"", checksum) for checksum in checksums), label))
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("it has one name twice")
    pieces = _cut(header.rest, sizes, last=bool(entries) and bool(entries[-1].blocks))
    filled = tuple(
        replace(entry, blocks=tuple(replace(block, coded=next(pieces)) for block in entry.blocks)) for entry in entries
    )
    return Container(model, signature, KINDS[kind], engine, target, filled, length, bool(flags & _LABELLED))


def _cut(coded: bytes, sizes: Sequence[int], last: bool) -> Iterator[bytes]:
    """Cut the blocks off, of these sizes, and what is left as one more if there is a last one.

    Raises:
        ValueError: they do not add up.
    """
    left = len(coded) - sum(sizes)
    if left < 0 or left % WORD or (left and not last):
        raise ValueError("its blocks are not as long as its header says")
    ends = list(accumulate([*sizes, left]))
    return (coded[start:end] for start, end in pairwise([0, *ends]))


def checked_name(name: bytes) -> bytes:
    """Return a name, unless it would lead out of the folder that files are written to, or is too long for a file.

    Raises:
        ValueError: it would.
    """
    if len(name) > LONGEST_NAME or name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError("a name in it is none that a file can have")
    return name
