"""Bits per dimension of a set of images, exactly, with the standard error over images.

    bits/dim = -log2 p(x) / L,   averaged over sequences x of L tokens

The scorers report natural logarithms (nats); dividing by ln 2 makes them bits. A sequence counts whole: nothing is
cropped, subsampled or left out, so the number is comparable with published ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.evaluate.scorers import Scorer, fed
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
    bits: list[Tensor] = []
    with torch.inference_mode(), progress_bar(len(sequences), "seq", progress, desc=f"scoring ({mode})") as bar:
        for first in range(0, len(sequences), batch_size):
            rows = slice(first, first + batch_size)
            batch = sequences[rows]
            nats, _ = score(fed(batch, bos), batch, None, None if labels is None else labels[rows])
            bits.append(nats.sum(-1).double().cpu() / (math.log(2) * length))
            bar.set_postfix_str(f"{torch.cat(bits).mean().item():.4f} bits/dim")
            bar.update(len(batch))
    # The mean is taken over sequences, not over the means of batches: the last batch may be smaller than the others.
    every = torch.cat(bits)
    return ImageEvaluation(
        bits_per_dim=every.mean().item(),
        stderr=every.std().item() / math.sqrt(len(every)) if len(every) > 1 else math.nan,
        n_sequences=len(every),
        length=length,
        mode=mode,
        seconds=time.perf_counter() - started,
    )
