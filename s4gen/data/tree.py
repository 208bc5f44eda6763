"""The files of a folder with all folders in it, whatever links there are; names in the order that people count in."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from s4gen.errors import UserError

Parts = tuple[str, ...]


def names_below(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, with "/" between folders.

    Links to folders are followed, except to one that they are in. What begins with a dot is left out, and so is
    __MACOSX. A link that leads nowhere counts as a file, so that whoever reads it can say so.

    Raises:
        UserError: a folder may not be entered.
    """
    return [path.relative_to(folder).as_posix() for path in _files(folder, ())]


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Files below a folder that lies in the folders `above`, known by device and inode."""
    try:
        status = folder.stat()
        here = status.st_dev, status.st_ino
        if here in above:
            return
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not is_hidden(PurePath(entry.name))]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be looked into ({error.strerror}): allow it with chmod, or move it elsewhere"
        ) from error
    for entry in entries:
        path = folder / entry.name
        try:
            mode = path.stat().st_mode
        except OSError:  # a link that leads nowhere, or where we may not go
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            yield from _files(path, (*above, here))
        elif stat.S_ISREG(mode):  # and not a pipe, whose reader waits for ever
            yield path


def is_hidden(path: PurePath) -> bool:
    """Whether it is nothing that a person has put there."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def natural(name: str) -> tuple[list[tuple[int, str] | str], str]:
    """Sorts 2.wav before 10.wav, whatever else the names hold; no two names are equal."""
    parts: list[tuple[int, str] | str] = list(re.split(r"([0-9]+)", name))  # numbers at 1, 3, ...
    for i in range(1, len(parts), 2):
        digits = str(parts[i]).lstrip("0")
        parts[i] = (len(digits), digits)  # in the order of the numbers, however long they are
    return parts, name


def readable(name: str) -> str:
    """The name as text that can be written anywhere; a byte of it that is no UTF-8 becomes U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def without_common_folder(names: Iterable[str]) -> dict[str, Parts]:
    """The parts of every name, without the folders that all of them are in."""
    parts = {name: tuple(name.split("/")) for name in names}
    while parts and all(len(p) > 1 for p in parts.values()) and len({p[0] for p in parts.values()}) == 1:
        parts = {name: p[1:] for name, p in parts.items()}
    return parts
