"""Images at the command line: a data set as the sequences of a model, and what the verbs do for images alone."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from s4gen.cli.classes import labels_in_turn
from s4gen.cli.output import shows_progress
from s4gen.config import ImageLayout
from s4gen.config.names import WRITTEN_IMAGES
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.models.density import DensityModel

SUFFIXES: tuple[str, ...] = WRITTEN_IMAGES
EXPECTED_NAME = "images are written as PNG; use a name that ends so, or a folder"
NOUN = "image"


def open_for(
    checkpoint: Checkpoint, dataset: str, split: str, limit: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Open the first `limit` (None: all) images of a split for a model: sequences (n, L) int64, and labels (n,) int64.

    There are no labels where the model is not conditional on them. What was done to somebody's own images goes to
    standard error.

    Raises:
        UserError: there is no such data, or the images have another layout than the model's, or not its classes.
    """
    import torch

    from s4gen.data import open_split, to_sequence
    from s4gen.data.images import labels_for
    from s4gen.data.opening import format_for

    layout, recipe = checkpoint.config.layout, checkpoint.recipe
    assert isinstance(layout, ImageLayout)
    format = format_for(layout, dataset, None if recipe is None else recipe.data)
    images = open_split(dataset, split, format, shows_progress())
    for line in images.notes:
        print(f"s4gen: {images.name}: {line}", file=sys.stderr)
    if images.layout != dataclasses.replace(layout, classes=()):
        raise UserError(
            f"{dataset} has images of {_size(images.layout)}, the model is for {_size(layout)}: choose a fitting "
            "--dataset"
        )
    labels = labels_for(images, layout)
    return to_sequence(images.images[:limit]), None if labels is None else torch.from_numpy(labels[:limit])


def _size(layout: ImageLayout) -> str:
    return f"{layout.height} x {layout.width} x {layout.channels} with {layout.levels} levels"


def sample(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Draw or complete images."""
    from s4gen.cli import sample_images

    return sample_images.run(args, checkpoint)


def sequences_to_compare(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the first n test images."""
    return open_for(checkpoint, dataset, "test", n)


def extra_facts(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return nothing: the layout says all there is to images."""
    return {}


def draw(model: DensityModel, n: int, seed: int) -> Tensor:
    """Draw n images, of all classes in turn."""
    from s4gen.sampling.convert import convert
    from s4gen.sampling.generate import generate

    layout = model.config.layout
    assert isinstance(layout, ImageLayout)
    labels = labels_in_turn(range(len(layout.classes)), n)
    return generate(convert(model), n, seed=seed, labels=labels, engine="eager")
