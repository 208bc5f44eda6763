"""Which examples are for training, validation and test, and whether their classes can be learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s4gen.config.names import SPLITS
from s4gen.data.examples import Examples
from s4gen.data.galleries import assigned
from s4gen.data.labelled.draws import Draws
from s4gen.data.labelled.rows import Rows
from s4gen.errors import UserError

Indices = NDArray[np.int64]
ThreeSplits = tuple[Examples, Examples, Examples]


def parts(splits: NDArray[np.int64], validation: int) -> tuple[Indices, Indices, Indices]:
    """Return the numbers of the examples of train, validation and test.

    Args:
        splits: (n,) the number of its split in SPLITS for each example, or galleries.NO_SPLIT. What is open is assigned
            by chance, always the same (`galleries.assigned`).
        validation: the most examples for validation, drawn at random, because examples often lie in the order of their
            classes. 0 leaves the evaluation out; what would have been held out is then for training.
    """
    train_number, validation_number, test_number = range(len(SPLITS))
    own = (splits == validation_number).any()
    found = assigned(splits)
    if not validation and not own:
        found[found == validation_number] = train_number
    held = np.flatnonzero(found == validation_number)
    chosen = np.sort(held[Draws(0).permutation(len(held))][:validation])
    return np.flatnonzero(found == train_number), chosen, np.flatnonzero(found == test_number)


def parted(rows: Rows, targets: NDArray[np.int64], chosen: tuple[Indices, Indices, Indices]) -> ThreeSplits:
    """Return the examples of each split."""
    return three([Examples(rows.take(indices), targets[indices]) for indices in chosen])


def three(splits: Sequence[Examples]) -> ThreeSplits:
    """Return train, validation and test as a tuple of three."""
    train, validation, test = splits
    return train, validation, test


def check_classes(name: str, classes: Sequence[str], splits: Sequence[Examples]) -> None:
    """Refuse examples whose classes cannot be learnt; `splits` are those of train, validation and test.

    Raises:
        UserError: nothing is for training; there are fewer than two classes; one is only in another split.
    """
    if not len(splits[0]):
        raise UserError(f"{name} has nothing in the training split: add some examples")
    known = np.unique(splits[0].targets)
    for split, examples in zip(SPLITS[1:], splits[1:], strict=True):
        unseen = np.setdiff1d(examples.targets, known)
        if len(unseen):
            raise UserError(
                f"the class {classes[unseen[0]]} of {name} is in the {split} split, but never seen in training: add "
                "training examples of it, or leave it out"
            )
    if len(known) < 2:
        raise UserError(
            f"{name} has one class, {classes[known[0]]}, so there is nothing to tell apart: add examples of another"
        )
