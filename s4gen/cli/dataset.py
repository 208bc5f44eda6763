"""The data set that a verb reads, which is that of `--dataset` or else that of the training, opened for a model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.output import shows_progress
from s4gen.config import ImageLayout, is_text, kind_of
from s4gen.config.names import AUDIO_PREFIX, AUDIO_SETS, PLURAL, WITHOUT_VALIDATION
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import AnyCheckpoint, Checkpoint
    from s4gen.data.audio import AudioFormat, AudioSet
    from s4gen.data.text import TokenFile


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset NAME`."""
    parser.add_argument("--dataset", metavar="NAME", help="a data set other than the one that the model was trained on")


def dataset_of(checkpoint: AnyCheckpoint) -> str:
    """Return the data set that the checkpoint was trained on.

    Raises:
        UserError: the checkpoint does not say.
    """
    if checkpoint.recipe is None:
        raise UserError(f"{checkpoint.path} has no recipe that names a data set; name one with --dataset")
    return checkpoint.recipe.data.dataset


def open_images(
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
    if (kind := kind_of(dataset)) != "image":
        raise UserError(
            f"{dataset} is {PLURAL[kind]}, and {checkpoint.path} a model of images: choose a fitting data set"
        )
    format = format_for(layout, dataset, None if recipe is None else recipe.data)
    images = open_split(dataset, split, format, shows_progress())
    for line in images.notes:
        print(f"s4gen: {images.name}: {line}", file=sys.stderr)
    if images.layout != dataclasses.replace(layout, classes=()):
        raise UserError(
            f"{dataset} has images of {_size(images.layout)}, the model is for {_size(layout)}: choose a fitting "
            "data set"
        )
    labels = labels_for(images, layout)
    return to_sequence(images.images[:limit]), None if labels is None else torch.from_numpy(labels[:limit])


def open_text(checkpoint: Checkpoint, dataset: str, split: str) -> TokenFile:
    """Open a split of a text in the tokens of a language model; where they must be made, a bar shows how far it is.

    Raises:
        UserError: there is no such data, or it is no text.
    """
    from s4gen.data.text import open_split

    if not is_text(dataset):
        raise UserError(f"{dataset} is no text, and {checkpoint.path} a model of text: choose a fitting data set")
    return open_split(dataset, split, checkpoint.tokenizer(), shows_progress())


def open_clips(checkpoint: Checkpoint, dataset: str, split: str, format: AudioFormat) -> AudioSet:
    """Open a split of recordings for a model, and say on standard error what was changed about them.

    The model's own data set has the recipe's limits of length; and where that set has no validation split, it is what
    training held out.

    Raises:
        UserError: there is no such data, it is no sound, or clips lack the labels that the model is conditional on.
    """
    from s4gen.data.audio import hold_out, open_split
    from s4gen.data.audio.opening import check_fits, recipe_limits

    if kind_of(dataset) != "audio":
        names = ", ".join(AUDIO_SETS)
        hint = f"; did you mean {AUDIO_PREFIX}{dataset}?" if Path(dataset).is_dir() else ""
        raise UserError(
            f"{dataset} is no sound, and {checkpoint.path} a model of sound: expected one of {names}, or "
            f"{AUDIO_PREFIX}FOLDER{hint}"
        )
    recipe = checkpoint.recipe
    own = recipe.data if recipe is not None and recipe.data.dataset == dataset else None
    limits = recipe_limits(own)
    if split == "validation" and dataset in WITHOUT_VALIDATION and own is not None and own.validation:
        audio = hold_out(open_split(dataset, "train", format, *limits, shows_progress()), own.validation)[1]
    else:
        audio = open_split(dataset, split, format, *limits, shows_progress())
    check_fits(audio, getattr(checkpoint.config.layout, "classes", ()))
    for line in audio.findings.lines():
        print(f"s4gen: {audio.name}: {line}", file=sys.stderr)
    return audio


def _size(layout: ImageLayout) -> str:
    return f"{layout.height} x {layout.width} x {layout.channels} with {layout.levels} levels"
