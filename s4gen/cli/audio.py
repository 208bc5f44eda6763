"""Sound at the command line: a data set as the clips of a model, and what the verbs do for sound alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.classes import labels_in_turn
from s4gen.cli.dataset import open_clips
from s4gen.config import AudioLayout
from s4gen.config.names import WRITTEN_SOUND

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.part import Part
    from s4gen.checkpoint import Checkpoint
    from s4gen.cli.evaluate_common import Outcome, Scoring, Shown
    from s4gen.cli.score_common import Reference, Result
    from s4gen.data.audio import AudioSet
    from s4gen.models.density import DensityModel

SUFFIXES: tuple[str, ...] = WRITTEN_SOUND
EXPECTED_NAME = "sound is written as wav or flac; use a name that ends in .wav or .flac, a folder, or - for a stream"
NOUN = "sequence"
SHOWN: dict[str, type] = {"rate": int, "rate_factor": float, "references": dict}
"""Fields that a part of scores of this kind has beside the fields of all kinds, with their types."""
COMPARED_SAMPLES = 2048
"""Samples of each clip, at most, on which both forms of a model are compared."""


def sample(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Draw or continue clips."""
    from s4gen.cli import sample_audio

    return sample_audio.run(args, checkpoint)


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to measure bits per sample of recordings."""
    from s4gen.cli import evaluate_audio

    return evaluate_audio.scoring(args, checkpoint)


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return bits per sample of recordings."""
    from s4gen.cli import evaluate_audio

    return evaluate_audio.outcome(shown, arrays, seconds)


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return what each of these recordings cost."""
    from s4gen.cli import score_audio

    return score_audio.score_files(args, checkpoint, files)


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Return what recordings are compared with."""
    from s4gen.cli import score_audio

    return score_audio.reference(args, checkpoint)


def merge_samples(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Put parts of samples together."""
    from s4gen.cli import sample_audio_files

    return sample_audio_files.merge(args, parts)


def sequences_to_compare(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the beginnings of the n longest test clips."""
    from s4gen.data.audio import format_of

    layout = checkpoint.config.layout
    assert isinstance(layout, AudioLayout)
    return longest_clips(open_clips(checkpoint, dataset, "test", format_of(layout)), n, COMPARED_SAMPLES)


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
