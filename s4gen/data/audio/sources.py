"""Where recordings are: in folders and zip archives of sound files. Which of them are in a split, and their classes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from s4gen.data.audio.clips import Source
from s4gen.data.audio.reading import EXTENSIONS, Recording
from s4gen.data.splits import are_splits, split_of, warning
from s4gen.data.tree import Parts, is_hidden, names_below, natural, readable, without_common_folder
from s4gen.errors import UserError

_PERCENT = {"train": (0, 88), "validation": (88, 94), "test": (94, 100)}
"""Of the recordings, in natural order: the published split of Beethoven and YouTubeMix."""
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
"""In these files Speech Commands names the recordings of two splits; all others are for training."""

Span = tuple[float, float]


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
        return names_below(self.path)

    def open(self, name: str) -> Path:
        return self.path / name

    def text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8-sig")

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
        return [name for name in files if not is_hidden(PurePosixPath(name))]

    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(self._zip.read(name))
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    def text(self, name: str) -> str:
        return self._zip.read(name).decode("utf-8-sig")

    def files(self, names: Sequence[str]) -> tuple[Path, ...]:
        return (self.path,)


def from_tree(tree: Tree, split: str, name: str, origin: str, classes: tuple[str, ...] = ()) -> Source:
    """One split of the sound files in a tree.

    What is in it, the first of these that applies: what `validation_list.txt` and `testing_list.txt` say; what is in
    the folders of splits (`splits.NAMES`), where there is one to train on and another; of each class, in natural order,
    the first 88 %, the next 6 %, the rest. A single recording is parted so in time.

    Classes are the uppermost folders (below those of splits) where every recording is in one, and there are several.
    With `classes`, only the folders of these names count, and labels are in their order.

    Raises:
        UserError: no sound files, or none in this split.
    """
    lists = tuple(_LISTS.values())
    parts = without_common_folder(name for name in tree.names() if name.endswith(lists) or is_sound(name))
    sound = {name: parts[name] for name in sorted(filter(is_sound, parts), key=natural)}
    if not sound:
        raise UserError(
            f"{tree.path} holds no wav, flac or ogg files, nor do its folders, nor any other sound; "
            "give a folder that does"
        )
    in_folders = are_splits(p[0] for p in sound.values() if len(p) > 1)
    notes: list[str] = []
    if in_folders:
        notes = _outside(sound)
        sound = {name: p for name, p in sound.items() if len(p) > 1 and split_of(p[0])}
    class_of = {name: _class(p[1:] if in_folders else p) for name, p in sound.items()}
    if classes:
        sound = {name: p for name, p in sound.items() if class_of[name] in classes}
    elif "" not in class_of.values() and len(set(class_of.values())) > 1:
        classes = tuple(sorted(set(class_of.values()), key=natural))
        notes += warning(classes)
    spans: dict[str, Span] = {}
    if {(file,) for file in lists} <= set(parts.values()):
        split_of_name = _by_lists(tree, parts, sound)
    elif in_folders:
        split_of_name = {name: split_of(p[0]) or "" for name, p in sound.items()}
    else:
        split_of_name = _by_percent(sound, class_of if classes else {})
        alone = [group[0] for group in _groups(sound, class_of if classes else {}) if len(group) == 1]
        split_of_name |= dict.fromkeys(alone, split)
        spans = dict.fromkeys(alone, _part(split))
        notes += [f"{name} is the only recording of its kind, so each split has a part of it" for name in alone]
    chosen = [name for name in sound if split_of_name[name] == split]
    if not chosen:
        raise UserError(
            f"none of the {len(sound)} recordings in {tree.path} is in the {split} split: {_way_out(split)}"
        )
    labels = {name: classes.index(class_of[name]) for name in chosen} if classes else {}
    source = listed(tree, chosen, labels, split=split, name=name, origin=origin, classes=classes, spans=spans)
    return replace(source, notes=tuple(notes))


def _way_out(split: str) -> str:
    """What to do where nothing is in a split."""
    add = "add some, or put them in folders train/, valid/ and test/"
    return f"{add}; or set data.validation = 0 to train without it" if split == "validation" else add


def _outside(sound: Mapping[str, Parts]) -> list[str]:
    """At most one line: recordings beside the folders of splits are in none."""
    outside = [name for name, p in sound.items() if len(p) == 1 or not split_of(p[0])]
    if not outside:
        return []
    return [f"left aside {len(outside)} recordings that are in none of the folders of splits, such as {outside[0]}"]


def listed(
    tree: Tree,
    chosen: Sequence[str],
    labels: Mapping[str, int],
    split: str,
    name: str,
    origin: str,
    classes: Parts,
    spans: Mapping[str, Span] | None = None,
) -> Source:
    """The named recordings of a tree, with their labels; of those in `spans`, a part."""
    whole: Span = (0.0, 1.0)

    def recordings() -> Iterator[Recording]:
        return (Recording(n, partial(tree.open, n), labels.get(n), (spans or {}).get(n, whole)) for n in chosen)

    return Source(name, split, origin, recordings, tree.path, tree.files(chosen), classes)


def is_sound(name: str) -> bool:
    """Whether a name has an ending of a sound file."""
    return name.lower().endswith(EXTENSIONS)


def _class(parts: Parts) -> str:
    return readable(parts[0]) if len(parts) > 1 else ""


def _by_lists(tree: Tree, parts: Mapping[str, Parts], sound: Mapping[str, Parts]) -> dict[str, str]:
    file_of = {p: name for name, p in parts.items()}
    split_of = {line: split for split, file in _LISTS.items() for line in tree.text(file_of[file,]).splitlines()}
    return {name: split_of.get("/".join(p), "train") for name, p in sound.items()}


def _groups(sound: Iterable[str], class_of: Mapping[str, str]) -> list[list[str]]:
    """The recordings of each class, in their order."""
    groups: dict[str, list[str]] = {}
    for name in sound:
        groups.setdefault(class_of.get(name, ""), []).append(name)
    return list(groups.values())


def _by_percent(sound: Iterable[str], class_of: Mapping[str, str]) -> dict[str, str]:
    return {
        name: split
        for group in _groups(sound, class_of)
        for split, ends in _PERCENT.items()
        for name in group[slice(*(len(group) * end // 100 for end in ends))]
    }


def _part(split: str) -> Span:
    """What part of a recording that is alone in its class belongs to a split."""
    begin, end = _PERCENT[split]
    return begin / 100, end / 100
