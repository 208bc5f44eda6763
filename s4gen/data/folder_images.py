"""Make a gallery of a folder of pictures: find which there are, their splits and their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from s4gen.config.names import SPLITS
from s4gen.data.galleries import NO_LABEL, NO_SPLIT, Gallery, Picture
from s4gen.data.pictures import is_picture, read_picture
from s4gen.data.splits import are_splits, split_of, warning
from s4gen.data.tree import Parts, names_below, natural, readable, without_common_folder
from s4gen.errors import UserError, printable
from s4gen.showing.words import plural


def from_folder(folder: Path, name: str) -> Gallery:
    """Return the pictures in a folder and in all folders in it, in natural order, as a gallery.

    Splits are the uppermost folders if these have the names of `splits.NAMES`, one to train on among them. Classes
    are the uppermost folders (below those of splits) if every picture is in one and there are several.

    Raises:
        UserError: there are no pictures; a folder may not be entered.
    """
    parts = without_common_folder(filter(is_picture, names_below(folder)))
    if not parts:
        raise UserError(f"{folder} holds no images, such as PNG or JPEG, nor do its folders; give a folder that does")
    notes: list[str] = []
    if in_folders := are_splits(p[0] for p in parts.values() if len(p) > 1):
        inside = {file: p for file, p in parts.items() if len(p) > 1 and split_of(p[0])}
        if outside := sorted(parts.keys() - inside.keys(), key=natural):
            found = plural(len(outside), "image")
            notes.append(f"left aside {found} in no folder of a split, such as {printable(outside[0])}")
        parts = inside
    names = sorted(parts, key=natural)
    class_of = _classes({file: p[1:] if in_folders else p for file, p in parts.items()})
    classes = tuple(sorted(set(class_of.values()), key=natural))
    number_of = {label: number for number, label in enumerate(classes)}
    splits = {file: SPLITS.index(split_of(parts[file][0]) or "") if in_folders else NO_SPLIT for file in names}

    def pictures() -> Iterator[Picture]:
        for file in names:
            label = number_of[class_of[file]] if classes else NO_LABEL
            yield Picture(file, partial(read_picture, folder / file), label, splits[file])

    key = [[file, *_stamp(folder / file), splits[file], class_of.get(file, "")] for file in names]
    return Gallery(name, key, len(names), pictures, classes, (*notes, *warning(classes)))


def _classes(parts: Mapping[str, Parts]) -> dict[str, str]:
    """Return the class of every picture; no classes if one is in no folder, or all are in the same one."""
    found = {file: readable(p[0]) for file, p in parts.items() if len(p) > 1}
    return found if len(found) == len(parts) and len(set(found.values())) > 1 else {}


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of modification in nanoseconds; zeros for a file that cannot be read.

    Such a file is skipped by name when the gallery is decoded.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
