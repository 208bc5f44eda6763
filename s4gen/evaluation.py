"""Bits per dimension of a data set, exactly, with the standard error over sequences.

    bits/dim = -log2 p(x) / L,   averaged over sequences x of L tokens

The models report natural logarithms (nats); dividing by ln 2 makes them bits. A sequence counts whole:
nothing is cropped, subsampled or left out, so the number is comparable with published ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.memory import keep_freed_memory
from s4gen.progress import progress_bar


@dataclass(frozen=True)
class Evaluation:
    """What a data set costs under a model."""

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


def evaluate(
    score: Callable[..., Tensor],
    sequences: Tensor,
    batch_size: int,
    mode: str,
    progress: bool = False,
    labels: Tensor | None = None,
) -> Evaluation:
    """Score every sequence and average in float64.

    Args:
        score: int64 (B, L) -> log p(x) in nats (B,): `DensityModel.log_prob`, `RecurrentModel.log_prob_recurrent`; with
            `labels` those of the batch, int64 (B,), are its second argument.
        sequences: int64 (n, L), on any device.
        batch_size: sequences per call of `score`; the last call may have fewer.
        mode: recorded in the result.
        progress: a bar with the running mean on standard error.
        labels: int64 (n,), the classes of the sequences, of a model that is conditional on them.

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
    with (
        torch.inference_mode(),
        progress_bar(len(sequences), "seq", progress, desc=f"scoring ({mode})") as bar,
    ):
        given = [sequences] if labels is None else [sequences, labels]
        for batch, *label in zip(*(column.split(batch_size) for column in given), strict=True):
            bits.append(score(batch, *label).double().cpu() / (-math.log(2) * length))
            bar.set_postfix_str(f"{torch.cat(bits).mean().item():.4f} bits/dim")
            bar.update(len(batch))
    every = torch.cat(bits)
    return Evaluation(
        bits_per_dim=every.mean().item(),
        stderr=every.std().item() / math.sqrt(len(every)) if len(every) > 1 else math.nan,
        n_sequences=len(every),
        length=length,
        mode=mode,
        seconds=time.perf_counter() - started,
    )
