"""Which data set a verb reads: the one of `--dataset`, else the one that the model was trained on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset NAME`."""
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the one the model was trained on")


def dataset_of(checkpoint: Checkpoint) -> str:
    """Return the data set that the checkpoint was trained on.

    Raises:
        UserError: the checkpoint does not say.
    """
    if checkpoint.recipe is None:
        raise UserError(f"{checkpoint.path} has no recipe that names a data set; name one with --dataset")
    return checkpoint.recipe.data.dataset
