"""A disk on which things go wrong: at a chosen change of the disk the process dies, or is told that it cannot be made.

What changes a disk is counted: renames, removals, new folders, what is written and what is synced. Dying is an
exception that nothing catches, after which no change happens any more, so that code which tidies up is as dead as the
rest. What is still in a buffer is lost then. Locks go, as they do with a process.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WHEN = ("before", "half-way", "after")
"""A death is before a change, after it, or half-way; only what is written knows a middle."""
CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "truncate")


class Died(BaseException):
    """The process is no more."""


@dataclass
class Disk:
    """Below one folder, what was changed so far and what happens next; every other file is as always."""

    root: Path
    at: int | None = None
    """Number of the change, from 0 on, at which it happens; None: nothing ever does."""
    when: str = "before"
    error: int | None = None
    """Instead of dying, this error number, at that change and all later ones that need room or permission."""
    seen: list[str] = field(default_factory=list)
    """Names of all changes, in their order."""
    dead: bool = False

    def change(self, name: str, path: Any, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """One change of the disk by `act`, if it comes to that."""
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
            with suppress(OSError):  # as of a folder that is there
                act()
        if self.when == "half-way" and half is not None:
            half()
        self.dead = True
        raise Died

    def _here(self, path: Any) -> bool:
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))
        return Path(name).is_relative_to(self.root)


class _File(io.FileIO):
    """A file whose writing is a change of the disk."""

    disk: Disk

    def write(self, data: Any) -> int:
        if self.disk.dead:
            return len(memoryview(data).cast("B"))  # the buffer of a dead process
        plain = super()
        some = memoryview(data).cast("B")
        written: int = self.disk.change(
            "write", self.fileno(), lambda: plain.write(some), lambda: plain.write(some[: len(some) // 2])
        )
        return written


@contextmanager
def disk_that_fails(disk: Disk) -> Iterator[Disk]:
    """Inside the block, changes below `disk.root` are the disk's."""
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
        if (folder := settings.get("dir_fd")) is not None:  # as in shutil.rmtree
            path = Path(os.readlink(f"/proc/self/fd/{folder}"), path)
        return disk.change(name, path, lambda: real(*arguments, **settings))

    return change


def _watched_sendfile(disk: Disk, real: Callable[..., int]) -> Callable[..., int]:
    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        half = max(1, (os.fstat(source).st_size - offset) // 2)
        sent: int = disk.change(
            "write", out, lambda: real(out, source, offset, count), lambda: real(out, source, offset, half)
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
    """Every point at which the changes that `act` makes can be broken off: its number, name, and when."""
    with disk_that_fails(Disk(root)) as disk:
        act()
    halves = {"write"}
    return [
        (n, name, when) for n, name in enumerate(disk.seen) for when in WHEN if when != "half-way" or name in halves
    ]


def dies(root: Path, at: int, when: str, act: Callable[[], Any]) -> None:
    """Let `act` die at this point.

    Raises:
        AssertionError: it did not come to it.
    """
    with disk_that_fails(Disk(root, at, when)):
        try:
            act()
        except Died:
            return
    raise AssertionError(f"there was no change {at}")


def refused(root: Path, at: int, act: Callable[[], Any], error: int = errno.ENOSPC) -> None:
    """Let `act` meet a disk that takes nothing more from this point on; what it raises is for the caller."""
    with disk_that_fails(Disk(root, at, error=error)):
        act()
