"""Read files that may come from strangers: regular ones alone, and never more than was allowed beforehand.

A name is no promise of a file: it may stand for a pipe that nobody writes to, or link to a device that never ends.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from s4gen.errors import UserError

SMALL = 1 << 24
"""Bytes that a text file of settings, names or measurements has at most."""
LARGE = 1 << 28
"""Bytes that a list of everything in a data set, or a vocabulary, has at most."""
_NOUNS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}
_CHUNK = 1 << 20


def open_regular(path: str | Path, pipes: bool = False) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading bytes; with `pipes` a pipe will do, such as standard input.

    Raises:
        OSError: there is no such file, or it may not be read.
        UserError: it is a pipe, a device, a folder or a socket.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes to it, which may be for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG and not (pipes and kind == stat.S_IFIFO):
            raise UserError(f"{path} is {_NOUNS.get(kind, 'no file')}: expected a regular file")
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: str | Path, most: int = SMALL, pipes: bool = False) -> bytes:
    """Return the content of a regular file of at most `most` bytes; with `pipes` a pipe will do.

    Raises:
        OSError: there is no such file, or it may not be read.
        UserError: it is no regular file, or it is larger.
    """
    with open_regular(path, pipes) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > most else _read(file, most)
        if max(size, len(content)) > most:
            raise UserError(f"{path} has more than {most:,} bytes, which is too many for a file of its kind")
        return content


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        OSError: there is no such file, or it may not be read.
        UserError: it is no regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(file: BinaryIO, most: int) -> bytes:
    """Read to the end, but stop behind `most` bytes: a pipe, or a file that grows meanwhile, may have no end."""
    pieces, left = [], most + 1
    while left > 0 and (piece := file.read(min(left, _CHUNK))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
