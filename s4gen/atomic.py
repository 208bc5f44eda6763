"""Files and directories that are there completely or not at all, whatever interrupts their writing.

A directory cannot be replaced in one system call, so there are two renames: the old one to `.NAME.previous`,
the new one into place. A process killed between the two leaves only `.NAME.previous`; `current` recognises
it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from s4gen.errors import UserError

T = TypeVar("T")

_ABANDONED_AFTER_SECONDS = 3600.0
_LOOKS, _LOOK_SECONDS = 5, 1e-3
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: str | Path, fill: Callable[[Path], None]) -> None:
    """Make or replace the directory `path`: `fill` writes into an empty one, which then takes its place.

    On any failure, an interrupt included, the new directory is removed and the old one stays as it was. What
    is replaced is deleted whole; whether it may be is for the caller to ask.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary_name(path)
    had_previous = current(path) is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary.mkdir()
        fill(temporary)
        _sync_tree(temporary)
        _swap(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (cause := _os_error(error)) is not None:
            raise _explained(cause, path, "checkpoint" if had_previous else None) from error
        raise


def write_file_atomic(path: str | Path, content: bytes) -> None:
    """Make or replace the file `path`; on any failure the old one stays as it was.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary_name(path)
    had_previous = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if (cause := _os_error(error)) is not None:
            raise _explained(cause, path, "file" if had_previous else None) from error
        raise


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


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing-{secrets.token_hex(4)}")


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers of the same directory left; on a young one a live writer may be at work."""
    for leftover in path.parent.glob(f".{path.name}.writing-*"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


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


def _explained(error: OSError, path: Path, previous: str | None) -> UserError:
    kept = f"the previous {previous} is untouched" if previous else "nothing was left behind"
    if error.errno in _DISK_FULL:
        return UserError(f"disk full while writing {path}: free some space and try again; {kept}")
    return UserError(f"cannot write {path}: {error.strerror or error}; {kept}")
