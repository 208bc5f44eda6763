"""Sound at the command line: a data set as the clips of a model, and what the verbs do for sound alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.classes import labels_in_turn
from s4gen.cli.output import shows_progress
from s4gen.config import AudioLayout, kind_of
from s4gen.config.names import AUDIO_PREFIX, AUDIO_SETS, WITHOUT_VALIDATION, WRITTEN_SOUND
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.data.audio import AudioFormat, AudioSet
    from s4gen.models.density import DensityModel

SUFFIXES: tuple[str, ...] = WRITTEN_SOUND
EXPECTED_NAME = "sound is written as wav or flac; use a name that ends in .wav or .flac, a folder, or - for a stream"
NOUN = "sequence"
COMPARED_SAMPLES = 2048
"""Samples of each clip, at most, on which both forms of a model are compared."""


def open_for(checkpoint: Checkpoint, dataset: str, split: str, format: AudioFormat) -> AudioSet:
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
            f"{dataset} is no audio, and {checkpoint.path} a model of audio: expected one of {names}, or "
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


def sample(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Draw or continue clips."""
    from s4gen.cli import sample_audio

    return sample_audio.run(args, checkpoint)


def sequences_to_compare(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the beginnings of the n longest test clips."""
    from s4gen.data.audio import format_of

    layout = checkpoint.config.layout
    assert isinstance(layout, AudioLayout)
    return longest_clips(open_for(checkpoint, dataset, "test", format_of(layout)), n, COMPARED_SAMPLES)


def longest_clips(audio: AudioSet, n: int, length: int) -> tuple[Tensor, Tensor | None]:
    """Cut the n longest clips to equal lengths: that of the shortest of them, and at most `length` samples.

    Returns:
        Codes (n, L) int64, and the clips' labels (n,) int64 or None.
    """
    import numpy as np

    from s4gen.data.audio.batches import Windows, gather

    chosen = np.sort(np.argsort(-audio.lengths, kind="stable")[:n])
    lengths = np.full(len(chosen), min(length, int(audio.lengths[chosen].min())))
    batch = gather(audio, Windows(chosen, np.zeros_like(chosen), lengths), np.arange(len(chosen)))
    return batch.codes, batch.labels


def extra_facts(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return nothing: the layout says all there is to sound."""
    return {}


def draw(model: DensityModel, n: int, seed: int) -> Tensor:
    """Draw n seconds of sound, of all classes in turn."""
    from s4gen.sampling.convert import convert
    from s4gen.sampling.generate import generate

    layout = model.config.layout
    assert isinstance(layout, AudioLayout)
    labels = labels_in_turn(range(len(layout.classes)), n)
    # A second is thousands of steps, for which the native engine is worth being made.
    return generate(convert(model), n, seed=seed, labels=labels, engine="auto")
