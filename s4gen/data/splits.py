"""Know the names that people give to the splits of a data set, and to what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from s4gen.errors import printable, shortened

NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Names of folders and files, without regard to capitals."""
_SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}
_LOOKS_LIKE = re.compile(
    r"(?<![a-z])(train|training|trainset|valid|validation|valset|val|dev|eval|test|testing|tests|testset|holdout)(?![a-z])"
)


def split_of(name: str) -> str | None:
    """Return the split that a folder of this name is, if any: Train, VALID and dev are some."""
    return _SPLIT_OF.get(name.casefold())


def split_of_file(stem: str) -> str | None:
    """Return the split of a file in parts, such as `train-00000-of-00002` or `Test_1`; `stem` lacks the ending."""
    return split_of(re.split(r"[-_.]", stem, maxsplit=1)[0])


def are_splits(folders: Iterable[str]) -> bool:
    """Tell whether folders of these names are the splits of a set: one to train on, and at least another one."""
    found = {split_of(name) for name in folders}
    return "train" in found and len(found - {None}) > 1


def suspicious(classes: Iterable[str]) -> list[str]:
    """Return the names of classes that look as if they were meant as splits."""
    return [name for name in classes if _LOOKS_LIKE.search(name.casefold())]


def warning(classes: Iterable[str]) -> list[str]:
    """Return a line that says which classes look like splits; no line if none do."""
    found = suspicious(classes)
    if not found:
        return []
    names = shortened(printable(", ".join(found)))
    return [
        f"the folder {names} is taken for a class, though its name is like that of a split; folders train, valid and "
        "test, one of them train, are taken for splits"
        if len(found) == 1
        else f"the folders {names} are taken for classes, though their names are like those of splits; folders train, "
        "valid and test, one of them train, are taken for splits"
    ]
