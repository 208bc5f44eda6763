"""Keep files and folders that are not complete yet under names of their own, and remove what killed writers left.

While NAME is being written, it is `.NAME.writing-XXXXXXXX` beside the place of NAME. Its writer holds a lock on it, and
the lock ends with the process. One whose lock is free is a leftover and can be removed at once. On a file system
without locks, leftovers stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_MARK = ".writing-"
_DIGITS = 8
"""Hexadecimal digits behind the mark."""
LONGEST_NAME = 255
"""Bytes of a name that file systems can hold."""


@contextlib.contextmanager
def unfinished(path: Path, folder: bool = False) -> Iterator[Path]:
    """Yield an empty file or folder beside `path`, to be filled and renamed to `path` inside the block.

    If it is not renamed, it is removed at the end of the block. Leftovers of the same name are removed first.
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
    """Remove what killed writers of `path` left beside it; a live writer's work stays."""
    for leftover in path.parent.glob(f"{glob.escape(_stem(path.name))}*"):
        _remove_if_left(leftover)


def remove_all_leftovers(folder: Path) -> None:
    """Remove what killed writers of anything in a folder left there."""
    for entry in folder.glob(f"{_stem('*')}*"):
        _remove_if_left(entry)


def is_leftover(path: Path) -> bool:
    """Return whether a path has the name of something unfinished."""
    return path.name.startswith(".") and _MARK in path.name


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path` for something that is not complete yet, or is about to be removed."""
    return path.with_name(f"{_stem(path.name)}{secrets.token_hex(_DIGITS // 2)}")


def remove(path: Path) -> None:
    """Remove a file or a folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _stem(name: str) -> str:
    """Return how the name of what is unfinished begins; a name that leaves no room for more is told by its hash."""
    encoded = os.fsencode(name)
    if len(encoded) > LONGEST_NAME - len(f".{_MARK}") - _DIGITS:
        name = hashlib.sha256(encoded).hexdigest()
    return f".{name}{_MARK}"


def _begun(path: Path, folder: bool) -> tuple[Path, int]:
    """Make an empty file or folder under a new name, and return it with the descriptor that holds its lock."""
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
        # Before it was locked, another process that tidies up took it for a leftover: try again.


def _remove_if_left(path: Path) -> None:
    """Remove something unfinished whose lock nobody holds."""
    with contextlib.suppress(OSError):  # its writer is alive, or there are no locks here
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(lock)
