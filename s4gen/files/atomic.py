"""Write files and directories so that they are there completely or not at all, whatever interrupts the writing.

A directory cannot be replaced in one system call, so there are two renames: the old one to `.NAME.previous`, then the
new one into place. A process killed between the two leaves only `.NAME.previous`; `current` recognises it.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from s4gen.errors import UserError, WriteError
from s4gen.files.unfinished import remove, remove_leftovers, temporary_name, unfinished

T = TypeVar("T")

_LOOKS, _LOOK_SECONDS = 5, 1e-3
"""How often, and how far apart, a reader looks for a directory before it believes that there is none."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that mean a full disk, a used-up quota, or a file above the limit of its size."""


def write_atomic(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Make or replace the directory `path`: `fill` writes into an empty directory, which then takes its place.

    On any failure, an interrupt included, the new directory is removed and the old one stays as it was. Otherwise the
    old one is deleted with all that it holds; whether that is allowed is for the caller to check.

    Raises:
        WriteError: the disk is full, or `path` cannot be written to.
    """
    path = destination(path)
    had_previous = current(path) is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path, folder=True) as temporary:
            fill(temporary)
            # Before the renames: after a power failure a new name must not stand for files that never reached the disk.
            _sync_tree(temporary)
            _swap(temporary, path)
    except (OSError, RuntimeError) as error:
        if (cause := _os_error(error)) is not None:
            raise write_error(cause, path, _untouched(had_previous, "checkpoint")) from error
        raise


def write_file_atomic(path: str | Path, content: bytes) -> None:
    """Make or replace the file `path`; on any failure the old file stays as it was.

    Raises:
        WriteError: the disk is full, or `path` cannot be written to.
    """
    path = destination(path)
    had_previous = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
    except OSError as error:
        raise write_error(error, path, _untouched(had_previous, "file")) from error


def destination(path: str | Path) -> Path:
    """Return the path that writing to `path` replaces: a link goes on pointing at what it points to.

    Raises:
        WriteError: `path` is a link to nothing. As with cp, writing through it would create a file in a place that the
            user has not named, and that perhaps somebody else has chosen. Or it is a device, a pipe or a socket, which
            would be replaced by a file: root would lose /dev/null.
    """
    real = Path(os.path.realpath(path))
    if os.path.islink(path) and not real.exists():
        raise WriteError(
            f"{path} is a link to {os.readlink(path)}, which does not exist; remove the link, or name the file"
        )
    if real.exists() and not (real.is_file() or real.is_dir()):
        raise WriteError(f"{path} is neither a file nor a folder, and would be replaced by one; choose another name")
    return real


def recover(path: Path) -> None:
    """Repair what a killed writer of the directory `path` left: an old one moved aside, or a new one half made.

    Call it only while no other process writes there. A live writer's old directory would be put back, or lost.

    Raises:
        WriteError: the folder of `path` cannot be written to.
    """
    path = Path(os.path.realpath(path))
    aside = _aside(path)
    if path.is_dir():
        remove(aside)
    elif aside.is_dir():
        try:
            os.rename(aside, path)
        except OSError as error:
            raise write_error(error, path, _untouched(True, "checkpoint")) from error
    remove_leftovers(path)


def discard(path: Path) -> None:
    """Remove the directory `path` at once: an interruption may leave a leftover, but never half a directory.

    Raises:
        WriteError: the directory cannot be removed.
    """
    path = Path(os.path.realpath(path))
    for directory in (path, _aside(path)):
        if directory.is_dir():
            leftover = temporary_name(path)
            try:
                os.rename(directory, leftover)
            except OSError as error:
                raise write_error(error, path, _untouched(True, "checkpoint")) from error
            remove(leftover)


def current(path: Path) -> Path | None:
    """Return where the directory `path` is now: in its place, moved aside by a killed writer, or nowhere (None)."""
    if path.is_dir():
        return path
    aside = _aside(Path(os.path.realpath(path)))
    return aside if aside.is_dir() else None


def read_consistent(path: Path, read: Callable[[Path], T]) -> T:
    """Return `read(directory)`; if a writer replaced the directory meanwhile, read again, so that versions never mix.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    while True:
        directory = _found(path)
        before = _identity(directory)
        if before is None:  # a writer moved it aside since: look again
            continue
        try:
            result = read(directory)
        except (OSError, UserError):
            # The error counts only if the directory is still the same; else it may come from a half removed one.
            if _identity(directory) == before and current(path) == directory:
                raise
            continue
        if _identity(directory) == before:
            return result


def _found(path: Path) -> Path:
    """Return `current(path)`, asking again before it believes in None: a swap may pass between its two looks."""
    for _ in range(_LOOKS):
        if (directory := current(path)) is not None:
            return directory
        time.sleep(_LOOK_SECONDS)
    raise FileNotFoundError(path)


def _swap(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`; if the second rename fails, the first one is undone."""
    aside = _aside(path)
    if path.exists():
        # While `path` exists, what lies aside is only the rest of a swap that was finished.
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        raise
    # The renames have to reach the disk before the old directory goes: a power failure must not undo them after that.
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells two directories apart that had one name in turn, or None if there is no directory.

    The time of the last change is a part of it, since file systems use the inode of a removed directory again.
    """
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _sync_tree(directory: Path) -> None:
    """Write all files below a directory, and the directories themselves, to the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: BaseException) -> OSError | None:
    """Return the OSError behind an error, if there is one: torch.save into a file object turns it into RuntimeError."""
    if isinstance(error, OSError):
        return error
    return error.__context__ if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError) else None


def write_error(error: OSError, path: Path, kept: str = "") -> WriteError:
    """Return the error that says in one line that `path` could not be written, and what is `kept` all the same."""
    end = f"; {kept}" if kept else ""
    if error.errno in _DISK_FULL:
        return WriteError(f"disk full while writing {path}: free some space and try again{end}")
    return WriteError(f"cannot write {path}: {error.strerror or error}{end}")


def _untouched(had_previous: bool, what: str) -> str:
    return f"the previous {what} is untouched" if had_previous else "nothing was left behind"
