"""A disk that fails: at a chosen change of the disk the process dies, or the change is refused with an error.

Every change is counted: renames, removals, new folders, writes and syncs. Dying is an exception that nothing catches.
After it no change happens any more, so that code which tidies up is as dead as the rest, and buffers are lost. Locks
end as they do with a process.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WHEN = ("before", "half-way", "after")
"""A process may die before a change, after it or half-way; only a write has a middle."""
CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "truncate")


class Died(BaseException):
    """The process has died."""


@dataclass
class Disk:
    """The changes below one folder so far, and the failure to come; files outside of it behave as always."""

    root: Path
    at: int | None = None
    """Number of the change, from 0 on, at which the disk fails; None lets it never fail."""
    when: str = "before"
    """One of `WHEN`."""
    error: int | None = None
    """Error number that this change and all later ones that need room or permission raise; None: the process dies."""
    seen: list[str] = field(default_factory=list)
    """Names of all changes, in their order."""
    dead: bool = False

    def change(
        self,
        name: str,
        path: Any,
        act: Callable[[], Any],
        half: Callable[[], Any] | None = None,
        rest: Callable[[], Any] | None = None,
    ) -> Any:
        """Make one change by calling `act`, or a part of it by calling `half`, unless the disk fails before that.

        `half` and then `rest` are as good as `act`.
        """
        if not self._here(path):
            return act()
        if self.dead:
            raise Died
        number = len(self.seen)
        self.seen.append(name)
        if self.error is not None:
            if self.at is not None and number >= self.at and name not in ("unlink", "rmdir"):
                raise OSError(self.error, os.strerror(self.error), None if isinstance(path, int) else os.fspath(path))
            return act()
        if number != self.at:
            return act()
        if self.when == "after":
            with suppress(OSError):  # such as mkdir for a folder that exists
                act()
        if self.when == "half-way" and half is not None:
            half()
        self.dead = True
        raise Died

    def _here(self, path: Any) -> bool:
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))
        return Path(name).is_relative_to(self.root)


@dataclass
class Camera(Disk):
    """A disk that never fails, and takes a picture of the folder at every point at which a process could die there.

    A picture is a copy of what is on the disk at that moment, so buffers that are not written yet are not in it: it is
    what a process that dies there leaves behind. Equal states are kept once.
    """

    kept: Path = Path()
    """Where the copies go, each under a digest of its content."""
    every: int = 1
    """Every so many points a picture is taken."""
    pictures: list[tuple[tuple[int, str, str], str]] = field(default_factory=list)
    """The points, as `points` returns them, and the digest of the state that each of them leaves."""
    passed: int = 0

    def __init__(self, root: Path, kept: Path, every: int = 1) -> None:
        super().__init__(root)
        self.kept, self.every, self.pictures, self.passed = kept, every, [], 0

    def change(
        self,
        name: str,
        path: Any,
        act: Callable[[], Any],
        half: Callable[[], Any] | None = None,
        rest: Callable[[], Any] | None = None,
    ) -> Any:
        if not self._here(path):
            return act()
        number = len(self.seen)
        self.seen.append(name)
        self._take(number, name, "before")
        if half is not None and rest is not None:
            half()
            self._take(number, name, "half-way")
            act = rest
        try:
            return act()
        finally:
            self._take(number, name, "after")

    def _take(self, number: int, name: str, when: str) -> None:
        self.passed += 1
        if (self.passed - 1) % self.every == 0:
            digest = _digest(self.root)
            if self.root.exists() and not (self.kept / digest).exists():
                shutil.copytree(self.root, self.kept / digest, symlinks=True)
            self.pictures.append(((number, name, when), digest))


def _digest(root: Path) -> str:
    """Return a digest of the names and contents of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")) if root.exists() else ():
        content = b"" if path.is_dir() else os.readlink(path).encode() if path.is_symlink() else _content(path)
        digest.update(f"{path.relative_to(root)} {path.is_dir()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY), "rb") as file:
        return file.read()


class _File(io.FileIO):
    """A file whose writes count as changes of the disk."""

    disk: Disk

    def write(self, data: Any) -> int:
        if self.disk.dead:
            return len(memoryview(data).cast("B"))  # a buffer that is flushed after the death is lost
        plain = super()
        some = memoryview(data).cast("B")
        middle = len(some) // 2
        written: int = self.disk.change(
            "write",
            self.fileno(),
            lambda: plain.write(some),
            lambda: plain.write(some[:middle]),
            lambda: middle + plain.write(some[middle:]),
        )
        return written


@contextmanager
def disk_that_fails(disk: Disk) -> Iterator[Disk]:
    """Let `disk` see, and fail, all changes below its root inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, _watched(disk, name, getattr(os, name)))
        patch.setattr(os, "sendfile", _watched_sendfile(disk, os.sendfile))
        for module in (io, builtins):
            patch.setattr(module, "open", _watched_open(disk, io.open))
        yield disk


def _watched(disk: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def change(*arguments: Any, **settings: Any) -> Any:
        path = arguments[0]
        if (folder := settings.get("dir_fd")) is not None:  # shutil.rmtree names files by descriptor and name
            path = Path(os.readlink(f"/proc/self/fd/{folder}"), path)
        return disk.change(name, path, lambda: real(*arguments, **settings))

    return change


def _watched_sendfile(disk: Disk, real: Callable[..., int]) -> Callable[..., int]:
    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        half, done = max(1, (os.fstat(source).st_size - offset) // 2), 0

        def first() -> None:
            nonlocal done
            done = real(out, source, offset, half)

        def rest() -> int:
            return done + real(out, source, offset + done, count - done)

        sent: int = disk.change(
            "write",
            out,
            lambda: real(out, source, offset, count),
            first,
            rest,
        )
        return sent

    return sendfile


def _watched_open(disk: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **settings: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not disk._here(file):
            return real(file, mode, buffering, *arguments, **settings)
        if disk.dead:
            raise Died
        raw = _File(file, mode.replace("b", "").replace("t", ""))
        raw.disk = disk
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *arguments, **settings)

    return opened


def points(root: Path, act: Callable[[], Any]) -> list[tuple[int, str, str]]:
    """Return every point at which `act` can be broken off, as number of the change, its name, and one of `WHEN`."""
    with disk_that_fails(Disk(root)) as disk:
        act()
    halves = {"write"}
    return [
        (n, name, when) for n, name in enumerate(disk.seen) for when in WHEN if when != "half-way" or name in halves
    ]


def dies(root: Path, at: int, when: str, act: Callable[[], Any]) -> None:
    """Let `act` die at this point.

    Raises:
        AssertionError: `act` ended without reaching the point.
    """
    with disk_that_fails(Disk(root, at, when)):
        try:
            act()
        except Died:
            return
    raise AssertionError(f"there was no change {at}")


def refused(root: Path, at: int, act: Callable[[], Any], error: int = errno.ENOSPC) -> None:
    """Run `act` on a disk that accepts nothing more from this point on; its error reaches the caller."""
    with disk_that_fails(Disk(root, at, error=error)):
        act()
