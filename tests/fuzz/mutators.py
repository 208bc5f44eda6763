"""Ways to damage a file: its bytes, its lines, the values in it, its tensors, or what lies at its place."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import mutate
import safetensors.torch

from fuzz.formats import FORMATS

Rng = random.Random

HEADS = (
    *(
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\x7fWAVE",
        b"PK\x03\x04",
        b"\x1f\x8b\x08\0",
        b"\x80\x02",
        b"fLaC",
        b"OggS",
    ),
    *(b"PAR1", b"GIF89a", b"\xff\xd8\xff\xe0", b"%!PS", b"\xef\xbb\xbf", b"\xff\xfe", b"{", b"[" * 10_000),
)
"""Beginnings of files of other kinds."""
TOML = (*mutate.RAW, "nan", "inf", "-inf", "'''", '"""', "1979-05-27", "0x_1", "{a = 1}", "[[1]]", "0b1", "a", "")
"""Values for TOML, some of which are none."""
LINES = (
    b"\xff",
    b"\0",
    b"\r",
    b"\x1b]0;x\x07\x1b[31m",
    b"\xed\xa0\x80",
    "\u2028é\u202e".encode(),
    b"\xef\xbb\xbf",
    b"\t \t",
)


def mutate_bytes(content: bytes, rng: Rng) -> bytes:
    """Small changes; or the beginning of another kind of file, more behind the end, or noise."""
    choice = rng.random()
    if choice < 0.85:
        return mutate.mutate_bytes(content, rng)
    if choice < 0.9:
        head = rng.choice(HEADS)
        return head + content[rng.choice((0, len(head))) :]
    if choice < 0.95:
        return content + rng.choice((bytes(512), rng.randbytes(64), content, b"\n"))
    return rng.randbytes(rng.choice((0, 1, 7, 64, len(content) % 100_000)))


def mutate_packed(content: bytes, rng: Rng) -> bytes:
    """Bytes of a gzipped file, or what is in it, packed again."""
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    return gzip.compress(mutate_lines(gzip.decompress(content), rng), mtime=0)


def mutate_lines(content: bytes, rng: Rng) -> bytes:
    """Lines of text or of JSON: one repeated, removed, odd, or all in another order or encoding."""
    lines = content.split(b"\n")
    at, choice = rng.randrange(len(lines)), rng.randrange(10)
    if choice < 3:
        return mutate_bytes(content, rng)
    if choice == 3:
        lines[at] *= rng.choice((0, 2, 500, 20_000))
    elif choice == 4:
        lines[at] = rng.choice(mutate.RAW).encode()
    elif choice == 5:
        lines[at] = f'{{"text": {rng.choice(mutate.RAW)}, "prompt": {rng.choice(mutate.RAW)}}}'.encode()
    elif choice == 6:
        lines[at] = rng.choice(LINES) + lines[at]
    elif choice == 7:
        return content.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-32", "utf-16-le", "utf-7", "cp500"))
        )
    elif choice == 8:
        rng.shuffle(lines)
    else:
        lines = [b" ".join(lines)]
    return b"\n".join(lines)


def mutate_json(content: bytes, rng: Rng) -> bytes:
    """One or two values of a JSON text."""
    for _ in range(rng.choice((1, 1, 2))):
        try:
            content = mutate.mutate_json(json.loads(content), rng)
        except (ValueError, RecursionError):  # it was broken by the first change
            break
    return content


def mutate_json_lines(content: bytes, rng: Rng) -> bytes:
    """The JSON value in one line, or the lines."""
    lines = content.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if not filled or rng.random() < 0.4:
        return mutate_lines(content, rng)
    at = rng.choice(filled)
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


def mutate_toml(content: bytes, rng: Rng) -> bytes:
    """The value or the name of a key, a line, or the bytes."""
    lines = content.decode("utf-8").splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        at, choice = rng.randrange(len(lines)), rng.randrange(8)
        key, equals, value = lines[at].partition(" = ")
        if choice == 0:
            return mutate_bytes("\n".join(lines).encode("utf-8", "surrogatepass"), rng)
        if equals and choice < 5:
            lines[at] = f"{key} = {rng.choice(TOML)}"
        elif choice == 5:
            lines[at] = f"{key}{rng.choice(('x', '.a', '.' + 'a.' * 200 + 'b', ''))}{equals}{value}"
        elif choice == 6:
            lines.insert(at, rng.choice(lines))
        else:
            lines[at] = ""
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_tensors(content: bytes, rng: Rng) -> bytes:
    """The header of a safetensors file, its tensors, or its bytes."""
    choice = rng.random()
    if choice < 0.3:
        return mutate_bytes(content, rng)
    size = int.from_bytes(content[:8], "little")
    if choice < 0.55:
        header = mutate_json(content[8 : 8 + size], rng)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__")
    return safetensors.torch.save(mutate.mutate_tensors(safetensors.torch.load(content), rng), metadata)


def replace_file(path: Path, rng: Rng) -> None:
    """Put at the place of a file something that is no such file: a pipe, a folder, a device, a link, holes, nothing."""
    content = path.read_bytes()
    path.unlink()
    choice = rng.randrange(8)
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.mkdir()
    elif choice == 2:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/urandom", "/dev/full", "/dev/null", "/proc/self/mem")))
    elif choice == 3:
        path.symlink_to(rng.choice(("nowhere", path.name)))
    elif choice == 4:
        path.write_bytes(content)
        os.truncate(path, rng.choice((1 << 31, 1 << 33, 1 << 40)))  # holes, which take no room on the disk
    elif choice == 5:
        path.write_bytes(b"")
    elif choice == 6:
        path.write_bytes(bytes(rng.choice((1, 512, 1 << 20))))
    else:
        path.write_bytes(content)
        path.chmod(0)


MUTATORS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "bytes": mutate_bytes,
    "json": mutate_json,
    "json lines": mutate_json_lines,
    "toml": mutate_toml,
    "lines": mutate_lines,
    "packed": mutate_packed,
    "tensors": mutate_tensors,
    **FORMATS,
}


def damage(path: Path, way: str, rng: Rng) -> None:
    """Damage one file in a way of `MUTATORS`; one time in twenty, what lies at its place."""
    if rng.random() < 0.05:
        replace_file(path, rng)
    else:
        path.write_bytes(MUTATORS[way](path.read_bytes(), rng))
