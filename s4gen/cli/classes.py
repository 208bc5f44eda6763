"""The classes that `--classes` names, for a model that is conditional on them, and sequences that take them in turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def chosen_classes(items: Sequence[str] | None, classes: Sequence[str], model: str) -> list[int]:
    """Return the numbers of the classes asked for, as names, lists `3,7` and ranges `0-9`; None: all of the model's.

    Raises:
        UserError: the model has no classes, or none of this name.
    """
    if items is not None and not classes:
        raise UserError(f"--classes: {model} is not conditional on classes; leave it out")
    if items is None:
        return list(range(len(classes)))
    return [number for item in items for number in _numbers(item, list(classes))]


def _numbers(item: str, classes: list[str]) -> list[int]:
    """Return the numbers of one name, list or range. A name may itself hold commas and dashes, so it is tried first."""
    if item in classes:
        return [classes.index(item)]
    if "," in item:
        return [number for part in item.split(",") for number in _numbers(part.strip(), classes)]
    for dash in re.finditer("-", item):
        ends = item[: dash.start()], item[dash.end() :]
        if all(end in classes for end in ends):
            first, last = map(classes.index, ends)
            if first <= last:
                return list(range(first, last + 1))
    raise UserError(f"--classes: no class and no range {item!r}; the classes are {', '.join(classes)}")


def labels_in_turn(classes: Sequence[int], n: int) -> Tensor | None:
    """Return labels (n,) int64 that take the classes in turn; None where there are no classes."""
    import torch

    return torch.tensor(classes).repeat(-(-n // len(classes)))[:n] if classes else None
