"""Where recordings are: in folders and zip archives of sound files. Which of them are in a split, and their classes."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, Protocol

from s4gen.data.audio.clips import Source
from s4gen.data.audio.reading import EXTENSIONS, Recording
from s4gen.errors import UserError

SPLITS = ("train", "validation", "test")
_PERCENT = {"train": (0, 88), "validation": (88, 94), "test": (94, 100)}
"""Of the recordings, in natural order: the published split of Beethoven and YouTubeMix."""
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
"""In these files Speech Commands names the recordings of two splits; all others are for training."""

Parts = tuple[str, ...]


class Tree(Protocol):
    """Named files, in a folder or in a zip archive."""

    path: Path

    def names(self) -> list[str]:
        """Names of all files, with "/" between folders; what begins with a dot is left out."""

    def open(self, name: str) -> Path | BinaryIO:
        """What soundfile is to read. Raises OSError."""

    def text(self, name: str) -> str:
        """A small text file."""

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        """The files on disk that hold the named ones."""


class Folder:
    """A folder with all folders in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return [name.as_posix() for name in found if not _hidden(name)]

    def open(self, name: str) -> Path:
        return self.path / name

    def text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        return tuple(self.path / name for name in names)


class Archive:
    """A zip archive, as data sets are published; it is not unpacked.

    Raises:
        UserError: it is damaged, or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no readable zip archive ({error}): copy or download it again") from error

    def names(self) -> list[str]:
        files = (info.filename for info in self._zip.infolist() if not info.is_dir())
        return [name for name in files if not _hidden(PurePosixPath(name))]

    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(self._zip.read(name))
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    def text(self, name: str) -> str:
        return self._zip.read(name).decode("utf-8")

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        return (self.path,)


def from_tree(tree: Tree, split: str, name: str, origin: str, classes: tuple[str, ...] = ()) -> Source:
    """One split of the sound files in a tree.

    What is in it, the first of these that applies: what `validation_list.txt` and `testing_list.txt` say; what is in
    the folders train/, validation/ and test/; of each class, in natural order, the first 88 %, the next 6 %, the rest.

    Classes are the uppermost folders (below those of splits) where every recording is in one, and there are several.
    With `classes`, only the folders of these names count, and labels are in their order.

    Raises:
        UserError: no sound files, or none in this split.
    """
    lists = tuple(_LISTS.values())
    parts = _without_common_folder(name for name in tree.names() if name.endswith(lists) or is_sound(name))
    sound = {name: parts[name] for name in sorted(filter(is_sound, parts), key=natural)}
    if not sound:
        raise UserError(f"{tree.path} holds no wav, flac or ogg files, nor do its folders; give a folder that does")
    in_folders = {"train", "test"} <= {p[0] for p in sound.values()}
    class_of = {name: _class(p[1:] if in_folders else p) for name, p in sound.items()}
    if classes:
        sound = {name: p for name, p in sound.items() if class_of[name] in classes}
    elif "" not in class_of.values() and len(set(class_of.values())) > 1:
        classes = tuple(sorted(set(class_of.values()), key=natural))
    if {(file,) for file in lists} <= set(parts.values()):
        split_of = _by_lists(tree, parts, sound)
    elif in_folders:
        split_of = {name: p[0] for name, p in sound.items()}
    else:
        split_of = _by_percent(sound, class_of if classes else {})
    chosen = [name for name in sound if split_of[name] == split]
    if not chosen:
        raise UserError(
            f"none of the {len(sound)} recordings in {tree.path} is in the {split} split: "
            "add some, or put them in folders train/, validation/ and test/"
        )
    labels = {name: classes.index(class_of[name]) for name in chosen} if classes else {}
    return listed(tree, chosen, labels, split=split, name=name, origin=origin, classes=classes)


def listed(
    tree: Tree, chosen: Sequence[str], labels: Mapping[str, int], split: str, name: str, origin: str, classes: Parts
) -> Source:
    """The named recordings of a tree, with their labels."""

    def recordings() -> Iterator[Recording]:
        return (Recording(n, partial(tree.open, n), labels.get(n)) for n in chosen)

    return Source(name, split, origin, recordings, tree.path, tree.files(chosen), classes)


def is_sound(name: str) -> bool:
    """Whether a name has an ending of a sound file."""
    return name.lower().endswith(EXTENSIONS)


def natural(name: str) -> list[str | int]:
    """Sorts 2.wav before 10.wav."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _without_common_folder(names: Iterable[str]) -> dict[str, Parts]:
    """The parts of every name, without the folders that all of them are in."""
    parts = {name: PurePosixPath(name).parts for name in names}
    while parts and all(len(p) > 1 for p in parts.values()) and len({p[0] for p in parts.values()}) == 1:
        parts = {name: p[1:] for name, p in parts.items()}
    return parts


def _class(parts: Parts) -> str:
    return parts[0] if len(parts) > 1 else ""


def _by_lists(tree: Tree, parts: Mapping[str, Parts], sound: Mapping[str, Parts]) -> dict[str, str]:
    file_of = {p: name for name, p in parts.items()}
    split_of = {line: split for split, file in _LISTS.items() for line in tree.text(file_of[file,]).splitlines()}
    return {name: split_of.get("/".join(p), "train") for name, p in sound.items()}


def _by_percent(sound: Iterable[str], class_of: Mapping[str, str]) -> dict[str, str]:
    groups: dict[str, list[str]] = {}
    for name in sound:
        groups.setdefault(class_of.get(name, ""), []).append(name)
    return {
        name: split
        for group in groups.values()
        for split, ends in _PERCENT.items()
        for name in group[slice(*(len(group) * end // 100 for end in ends))]
    }
