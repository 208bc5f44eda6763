"""What is being written and is not whole yet, and what killed writers left of such things.

It is `.NAME.writing-XXXXXXXX` beside the place of NAME. Its writer holds a lock on it, which goes with the process:
what nobody holds is a leftover, and can be removed at once. Where a file system has no locks, leftovers stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_MARK = ".writing-"


@contextlib.contextmanager
def unfinished(path: Path, folder: bool = False) -> Iterator[Path]:
    """An empty file, or folder, beside `path`, to be filled and renamed to it; if it is not, it goes with the block.

    Leftovers of the same name are removed before.
    """
    remove_leftovers(path)
    temporary, lock = _begun(path, folder)
    try:
        yield temporary
    finally:
        try:
            remove(temporary)
        finally:
            os.close(lock)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; what a live one has in hand stays."""
    for leftover in path.parent.glob(f"{glob.escape(_stem(path.name))}*"):
        _remove_if_left(leftover)


def remove_all_leftovers(folder: Path) -> None:
    """`remove_leftovers` of whatever was written in a folder."""
    for entry in folder.glob(f"{_stem('*')}*"):
        _remove_if_left(entry)


def is_leftover(path: Path) -> bool:
    """Whether a name is that of something unfinished."""
    return path.name.startswith(".") and _MARK in path.name


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what is not whole yet, or not for long."""
    return path.with_name(f"{_stem(path.name)}{secrets.token_hex(4)}")


def remove(path: Path) -> None:
    """Remove a file or a folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _stem(name: str) -> str:
    return f".{name}{_MARK}"


def _begun(path: Path, folder: bool) -> tuple[Path, int]:
    """Something empty of a new name, and the descriptor that holds its lock."""
    while True:
        temporary = temporary_name(path)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(temporary, os.O_RDONLY)
            with contextlib.suppress(OSError):  # there are no locks on some network file systems
                fcntl.flock(lock, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, lock
            os.close(lock)
        # Before it was locked, somebody who tidies up took it for a leftover: once more.


def _remove_if_left(path: Path) -> None:
    with contextlib.suppress(OSError):  # its writer lives, or there are no locks here
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(lock)
