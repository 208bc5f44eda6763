"""Gzipped files from strangers, which may be small and unpack to any size, or have no end."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import BinaryIO, cast

from s4gen.files.reading import open_regular

BOMB_SIZE, BOMB_RATIO = 1 << 28, 200
"""A file that unpacks to more bytes than this, and to more than so many times its size, holds no data of anybody."""
PADDING = 1 << 16
"""Zeros that may stand behind the end, as tapes have them. Python's reader skips them one by one."""


def open_gzipped(path: Path) -> BinaryIO:
    """Open a gzipped file for reading what is in it.

    Its `read` and `readline` raise OSError where it turns out to be a bomb, and EOFError, OSError or zlib.error where
    it is damaged.

    Raises:
        OSError: it cannot be opened, or has no end but zeros.
        UserError: it is no regular file.
    """
    packed = open_regular(path)
    try:
        size = packed.seek(0, os.SEEK_END)
        packed.seek(max(0, size - PADDING))
        if size > PADDING and not any(packed.read(PADDING)):
            raise OSError("it ends in zeros, as a copy that was broken off does")
        packed.seek(0)
        return cast(BinaryIO, _Unpacked(packed, max(BOMB_SIZE, BOMB_RATIO * size)))
    except BaseException:
        packed.close()
        raise


class _Unpacked(gzip.GzipFile):
    """A gzipped file that is closed with the packed one, and is read to at most `most` bytes."""

    def __init__(self, packed: BinaryIO, most: int) -> None:
        super().__init__(fileobj=packed)
        self._packed, self._most = packed, most

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._checked(super().readline(size))

    def _checked(self, part: bytes) -> bytes:
        if self.tell() > self._most:
            raise OSError(f"it unpacks to more than {self._most:,} bytes, which no data of its size do")
        return part

    def close(self) -> None:
        super().close()
        self._packed.close()
