"""List and read trees of files, in a folder or in a zip archive, in the order that people count in."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, Protocol

from s4gen.errors import UserError, shortened
from s4gen.files.folders import says_why
from s4gen.files.reading import LARGE, open_regular, read_bounded

Parts = tuple[str, ...]
"""The folders of a name, and its last part."""


class Tree(Protocol):
    """Named files, in a folder or in a zip archive."""

    path: Path

    def names(self) -> list[str]:
        """Return the names of all files, with "/" between folders; what begins with a dot is left out."""

    def open(self, name: str) -> Path | BinaryIO:
        """Return a path, or the bytes of a file, for a decoder to read. Raises OSError."""

    def text(self, name: str) -> str:
        """Return the text of a small file in UTF-8.

        Raises:
            UserError: it cannot be read, or is no such text.
        """

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Return the files on disk that hold the named ones."""


class Folder:
    """The files of a folder and of all folders in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return names_below(self.path)

    def open(self, name: str) -> Path:
        return self.path / name

    def text(self, name: str) -> str:
        try:
            return _decoded(read_bounded(self.path / name, LARGE), f"{self.path / name}")
        except OSError as error:
            raise UserError(says_why(error)) from error

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        return tuple(self.path / name for name in names)


class OneFile(Folder):
    """A folder of which one file counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._name = path.name

    def names(self) -> list[str]:
        return [self._name]


class Archive:
    """The files of a zip archive, as data sets are published; it is not unpacked.

    Raises:
        UserError: it is damaged, or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            open_regular(path).close()
            self._zip = zipfile.ZipFile(path)
        except UserError:
            raise
        except Exception as error:  # zipfile raises whatever reading a damaged directory leads to
            raise UserError(
                f"{path} is no readable zip archive ({shortened(str(error))}): copy or download it again"
            ) from error

    def names(self) -> list[str]:
        """Return the names of all files but of those that would lie outside of a folder that it is unpacked to."""
        paths = (PurePosixPath(info.filename) for info in self._zip.infolist() if not info.is_dir())
        return [str(path) for path in paths if not (is_hidden(path) or path.is_absolute() or ".." in path.parts)]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self._read(name))

    def text(self, name: str) -> str:
        where = f"{name} in {self.path}"
        try:
            return _decoded(self._read(name), where)
        except OSError as error:
            raise UserError(f"{where} cannot be read ({error}): copy or download the archive again") from error

    def _read(self, name: str) -> bytes:
        """Return the content of a file, which may have `LARGE` bytes at most.

        Raises:
            OSError: it is damaged, encrypted, packed in an unknown way, or larger, whatever its header says.
        """
        try:
            with self._zip.open(name) as file:
                content = file.read(LARGE + 1)
        except Exception as error:  # zipfile and its decoders have no common kind for damaged files
            raise OSError(shortened(str(error))) from error
        if len(content) > LARGE:
            raise OSError(f"more than {LARGE:,} bytes in an archive; unpack it")
        return content

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        return (self.path,)


def _decoded(content: bytes, where: str) -> str:
    """Return the text of bytes of UTF-8.

    Raises:
        UserError: it is none.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at byte {error.start}: convert it") from error


def names_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder, relative to it, with "/" between folders.

    Links to folders are followed, except to one that they are in. What begins with a dot is left out, and so is
    __MACOSX. A link that leads nowhere counts as a file, so that whoever reads it can say so.

    Raises:
        UserError: a folder may not be entered.
    """
    return [path.relative_to(folder).as_posix() for path in _files(folder, ())]


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield the files below a folder that lies in the folders `above`, known by device and inode."""
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
    """Tell whether it is nothing that a person has put there."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def natural(name: str) -> tuple[list[tuple[int, str] | str], str]:
    """Return a key that sorts 2.wav before 10.wav, whatever else the names hold; no two names are equal."""
    parts: list[tuple[int, str] | str] = list(re.split(r"([0-9]+)", name))  # numbers at 1, 3, ...
    for i in range(1, len(parts), 2):
        digits = str(parts[i]).lstrip("0")
        parts[i] = (len(digits), digits)  # in the order of the numbers, however long they are
    return parts, name


def readable(name: str) -> str:
    """Return the name as text that can be written anywhere; a byte of it that is no UTF-8 becomes U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def without_common_folder(names: Iterable[str]) -> dict[str, Parts]:
    """Return the parts of every name, without the folders that all of them are in."""
    parts = {name: tuple(name.split("/")) for name in names}
    while parts and all(len(p) > 1 for p in parts.values()) and len({p[0] for p in parts.values()}) == 1:
        parts = {name: p[1:] for name, p in parts.items()}
    return parts
