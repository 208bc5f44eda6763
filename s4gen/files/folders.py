"""Find things on the user's machine: paths that the user wrote, the cache folder, and who may write to a folder."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import grp
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from s4gen.errors import UserError


def user_path(text: str | Path, what: str = "") -> Path:
    """Return the path that a user wrote, with `~` and `~NAME` expanded to home folders.

    `what` names in messages the place where the path was written, such as an environment variable.

    Raises:
        UserError: there is no such home folder, or the text cannot be a path.
    """
    where = f"{what} = " if what else ""
    if "\0" in str(text):
        raise UserError(f"{where}{str(text)!r} holds a zero byte, which no path can; write another one")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # what pathlib raises for a home folder that it cannot find
        raise UserError(
            f"{where}{text}: there is no home folder of that name; write the path without ~, from / on"
        ) from None


def cache_folder() -> Path:
    """Return the folder of everything that can be made or downloaded again. It may not exist yet.

    It is `$S4GEN_CACHE`, else `s4gen` in `$XDG_CACHE_HOME`, else `s4gen` in `~/.cache`. A user whose home folder is
    missing or cannot be written to gets a private folder beside the system's temporary files; one line says so, once.

    Raises:
        UserError: `S4GEN_CACHE` names a home folder that does not exist, or not even a temporary folder can be had.
    """
    if own := os.environ.get("S4GEN_CACHE"):
        return user_path(own, "S4GEN_CACHE").absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return user_path(base, "XDG_CACHE_HOME").absolute() / "s4gen"
    try:
        usual = Path.home() / ".cache" / "s4gen"
    except RuntimeError:
        return _temporary_cache("there is no home folder")
    if not is_writable(usual):
        return _temporary_cache(f"{usual} cannot be written to")
    return usual


def is_writable(path: Path) -> bool:
    """Return whether a folder of this name can be written to or, if it does not exist, be made."""
    for above in (path, *path.parents):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(above.stat().st_mode):
                return os.access(above, os.W_OK | os.X_OK)
            return False
    return False


@functools.cache
def _temporary_cache(why: str) -> Path:
    """Return a folder among the temporary files that belongs to this user and is the same the next time."""
    folder = Path(tempfile.gettempdir()) / f"s4gen-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"{why}, nor can {folder} be used ({error.strerror}): set S4GEN_CACHE") from error
    # Anybody may make a folder of any name there, and the engine's library in it would be run.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(f"{why}, and {folder} belongs to somebody else: set S4GEN_CACHE to a folder of yours")
    print(
        f"s4gen: {why}, so downloads and what is prepared go to {folder}; set S4GEN_CACHE for another", file=sys.stderr
    )
    return folder


def stranger_of(path: Path) -> str:
    """Say in words who else could have written what lies at `path`; "" means nobody but this user and root.

    Many systems make for every user a group of the same name with nobody else in it; such a group counts as the user.

    Raises:
        OSError: nothing is at `path`.
    """
    status, me = path.stat(), os.getuid()
    if status.st_uid not in (me, 0):
        return "it belongs to somebody else"
    if status.st_mode & stat.S_IWOTH:
        return "everybody can write to it"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, me):
        return "a group can write to it"
    return ""


def _is_private(group: int, user: int) -> bool:
    """Return whether a group has the user's name and no member but the user."""
    try:
        name, found = pwd.getpwuid(user).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == name and set(found.gr_mem) <= {name}


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a folder, or on a file, which is made if it is missing.

    The lock ends with the block, or with the process, whatever ends that. If another process holds it, `busy` is called
    and may raise; when it returns, the lock is waited for. On a file system without locks the block runs without one.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        os.close(descriptor)


def says_why(error: OSError) -> str:
    """Return one sentence about a file or folder that the system did not let us use, with something to do about it."""
    name = error.filename if error.filename is not None else error.filename2
    reason = error.strerror or type(error).__name__
    if name is None:
        return f"something could not be written ({reason}): make room where standard output goes, or on the disk"
    if isinstance(error, PermissionError):
        return f"{os.fsdecode(name)}: no permission ({reason}); change it with chmod or chown, or choose another path"
    return f"{os.fsdecode(name)}: {reason}; choose another path, or put this one right"
