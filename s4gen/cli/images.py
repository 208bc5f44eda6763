"""Images at the command line: a data set as the sequences of a model, and what the verbs do for images alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.classes import labels_in_turn
from s4gen.cli.dataset import open_images
from s4gen.config import ImageLayout
from s4gen.config.names import WRITTEN_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.part import Part
    from s4gen.checkpoint import Checkpoint
    from s4gen.cli.evaluate_common import Outcome, Scoring, Shown
    from s4gen.cli.score_common import Reference, Result
    from s4gen.models.density import DensityModel

SUFFIXES: tuple[str, ...] = WRITTEN_IMAGES
EXPECTED_NAME = "images are written as PNG; use a name that ends in .png, or a folder"
NOUN = "image"
SHOWN: dict[str, type] = {"length": int}
"""Fields that a part of scores of this kind has beside the fields of all kinds, with their types."""


def sample(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Draw or complete images."""
    from s4gen.cli import sample_images

    return sample_images.run(args, checkpoint)


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to measure bits per dimension of images."""
    from s4gen.cli import evaluate_images

    return evaluate_images.scoring(args, checkpoint)


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return bits per dimension of images."""
    from s4gen.cli import evaluate_images

    return evaluate_images.outcome(shown, arrays, seconds)


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return what each of these image files cost."""
    from s4gen.cli import score_images

    return score_images.score_files(args, checkpoint, files)


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Return what image files are compared with."""
    from s4gen.cli import score_images

    return score_images.reference(args, checkpoint)


def merge_samples(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Put parts of samples together."""
    from s4gen.cli import sample_images

    return sample_images.merge(args, parts)


def sequences_to_compare(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the first n test images."""
    return open_images(checkpoint, dataset, "test", n)


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
