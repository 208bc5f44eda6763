"""Files and directories that are there completely or not at all, whatever interrupts their writing.

A directory cannot be replaced in one system call, so there are two renames: the old one to `.NAME.previous`,
the new one into place. A process killed between the two leaves only `.NAME.previous`; `current` recognises
it.
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
from s4gen.unfinished import remove, remove_leftovers, temporary_name, unfinished

T = TypeVar("T")

_LOOKS, _LOOK_SECONDS = 5, 1e-3
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Make or replace the directory `path`: `fill` writes into an empty one, which then takes its place.

    On any failure, an interrupt included, the new directory is removed and the old one stays as it was. What
    is replaced is deleted whole; whether it may be is for the caller to ask.

    Raises:
        WriteError: the disk is full, or the place cannot be written to.
    """
    path = Path(os.path.realpath(path))
    had_previous = current(path) is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path, folder=True) as temporary:
            fill(temporary)
            _sync_tree(temporary)
            _swap(temporary, path)
    except (OSError, RuntimeError) as error:
        if (cause := _os_error(error)) is not None:
            raise write_error(cause, path, _untouched(had_previous, "checkpoint")) from error
        raise


def write_file_atomic(path: str | Path, content: bytes) -> None:
    """Make or replace the file `path`; on any failure the old one stays as it was.

    Raises:
        WriteError: the disk is full, or the place cannot be written to.
    """
    path = Path(os.path.realpath(path))
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


def recover(path: Path) -> None:
    """Put right what a killed writer of the directory `path` left: the old one moved aside, a new one half made.

    It is for who alone writes there: the old one of a live writer would be put back, or lost.

    Raises:
        WriteError: the place cannot be written to.
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
    """Remove the directory `path`, at once or not at all: an interruption leaves a leftover, never half of it.

    Raises:
        WriteError: it cannot be removed.
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
    """Where the directory `path` is now: in its place, moved aside by a killed writer, or nowhere (None)."""
    if path.is_dir():
        return path
    aside = _aside(Path(os.path.realpath(path)))
    return aside if aside.is_dir() else None


def read_consistent(path: Path, read: Callable[[Path], T]) -> T:
    """`read(directory)`, again if a writer replaced the directory meanwhile, so that versions never mix.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    while True:
        directory = _found(path)
        before = _identity(directory)
        if before is None:  # moved aside since: look again
            continue
        try:
            result = read(directory)
        except (OSError, UserError):
            if _identity(directory) == before and current(path) == directory:
                raise
            continue
        if _identity(directory) == before:
            return result


def _found(path: Path) -> Path:
    """`current`, asked again where it says nowhere: a swap may have gone by between its two looks."""
    for _ in range(_LOOKS):
        if (directory := current(path)) is not None:
            return directory
        time.sleep(_LOOK_SECONDS)
    raise FileNotFoundError(path)


def _swap(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`. Both renames are undone if the second does not happen."""
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        raise
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _identity(directory: Path) -> tuple[int, int] | None:
    """Differs between two directories that had one name in turn, even where the inode is reused."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _sync_tree(directory: Path) -> None:
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
    """The OSError behind an error; torch.save into a file object makes a RuntimeError of it."""
    if isinstance(error, OSError):
        return error
    return error.__context__ if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError) else None


def write_error(error: OSError, path: Path, kept: str = "") -> WriteError:
    """One line about what could not be written, and about what is `kept` all the same."""
    end = f"; {kept}" if kept else ""
    if error.errno in _DISK_FULL:
        return WriteError(f"disk full while writing {path}: free some space and try again{end}")
    return WriteError(f"cannot write {path}: {error.strerror or error}{end}")


def _untouched(had_previous: bool, what: str) -> str:
    return f"the previous {what} is untouched" if had_previous else "nothing was left behind"
