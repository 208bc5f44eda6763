"""Bits per dimension of a set of images, exactly, with the standard error over images.

    bits/dim = -log2 p(x) / L,   averaged over sequences x of L tokens

The scorers report natural logarithms (nats); dividing by ln 2 makes them bits. A sequence counts whole: nothing is
cropped, subsampled or left out, so the number is comparable with published ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.evaluate.scorers import Nats, Scorer, fed, summed
from s4gen.machine.memory import keep_freed_memory
from s4gen.showing.progress import progress_bar


@dataclass(frozen=True)
class ImageEvaluation:
    """The cost of a set of images under a model."""

    bits_per_dim: float
    """Mean over sequences of -log2 p(x) / length."""
    stderr: float
    """Standard error of that mean over sequences; NaN for a single one."""
    n_sequences: int
    """Sequences scored."""
    length: int
    """Tokens per sequence."""
    mode: str
    """conv or recurrent: which view of the model scored them."""
    seconds: float
    """Wall time."""


def evaluate_images(
    score: Scorer,
    sequences: Tensor,
    bos: int,
    batch_size: int,
    mode: str,
    progress: bool = False,
    labels: Tensor | None = None,
) -> ImageEvaluation:
    """Score every sequence and average in float64.

    Args:
        score: the view of the model that scores.
        sequences: int64 (n, L), images as tokens, on any device.
        bos: the token that the model is fed before the first one of an image.
        batch_size: sequences per call of `score`; the last call may have fewer.
        mode: "conv" or "recurrent", recorded in the result.
        progress: whether a bar with the running mean is shown on standard error.
        labels: int64 (n,), the classes of the sequences, for a model that is conditional on them.

    Raises:
        UserError: there are no sequences, or `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")
    if len(sequences) == 0:
        raise UserError("there are no sequences to evaluate")
    keep_freed_memory()
    length = sequences.shape[1]
    started = time.perf_counter()
    total, found = 0.0, []
    with progress_bar(len(sequences), "seq", progress, desc=f"scoring ({mode})") as bar:
        for first in range(0, len(sequences), batch_size):
            rows = slice(first, first + batch_size)
            found.append(image_nats(score, sequences[rows], bos, None if labels is None else labels[rows]))
            total += float(found[-1].sum())
            bar.update(len(found[-1]))
            bar.set_postfix_str(f"{total / (math.log(2) * length * min(rows.stop, len(sequences))):.4f} bits/dim")
    return image_evaluation(np.concatenate(found), length, mode, time.perf_counter() - started)


@torch.inference_mode()
def image_nats(score: Scorer, sequences: Tensor, bos: int, labels: Tensor | None = None) -> Nats:
    """Return what images int64 (n, L) with classes int64 (n,) cost, in nats, float64 (n,)."""
    return summed(score(fed(sequences, bos), sequences, None, labels)[0])


def image_evaluation(nats: Nats, length: int, mode: str, seconds: float) -> ImageEvaluation:
    """Average what images of `length` tokens cost, nats float64 (n,).

    The mean is taken over images, not over the means of batches: the last batch may be smaller than the others.
    """
    bits, n = (nats / (math.log(2) * length)).tolist(), len(nats)
    mean = math.fsum(bits) / n
    variance = math.fsum((x - mean) ** 2 for x in bits) / (n - 1) if n > 1 else math.nan
    return ImageEvaluation(mean, math.sqrt(variance / n), n, length, mode, seconds)
