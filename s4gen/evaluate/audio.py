"""Bits per sample of recordings under a model: every sample of every clip once, padding never.

    bits/sample = sum of -log2 p(x) / sum of lengths,    over clips x of any lengths

so that a long clip counts as much as its samples do, and the number compares with what a compressor makes of the same
clips. Its standard error is that of a ratio of two sums over clips (Cochran, Sampling Techniques, section 2.11).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from s4gen.data.audio.batches import ClipBatch
from s4gen.errors import UserError
from s4gen.evaluate.scorers import Nats, Scorer, fed, summed
from s4gen.machine.memory import keep_freed_memory
from s4gen.showing.progress import progress_bar

SAMPLES = 1 << 18
"""Samples scored at a time, all rows together, so that memory does not grow with the length of a recording."""


@dataclass(frozen=True)
class AudioEvaluation:
    """The cost of recordings under a model."""

    bits_per_sample: float
    """Bits of all clips / samples of all clips."""
    stderr: float
    """Standard error of that over clips; NaN for a single one."""
    n_sequences: int
    """Clips scored."""
    n_samples: int
    """Samples scored."""
    mode: str
    """conv or recurrent: which view of the model scored them."""
    seconds: float
    """Wall time."""


def evaluate_clips(
    score: Scorer, batches: Iterable[ClipBatch], bos: int, n: int, mode: str, progress: bool = False
) -> AudioEvaluation:
    """Score every sample of every clip once.

    Args:
        score: the view of the model that scores.
        batches: clips side by side, each clip in one of them.
        bos: the token that the model is fed before the first sample of a clip.
        n: clips in all batches together, for the progress bar.
        mode: "conv" or "recurrent", recorded in the result.
        progress: whether a bar with the running mean is shown on standard error.

    Raises:
        UserError: there are no clips.
    """
    keep_freed_memory()
    started = time.perf_counter()
    nats, lengths = [], []
    total, samples = 0.0, 0
    with progress_bar(n, "clip", progress, desc=f"scoring ({mode})") as bar:
        for batch in batches:
            nats.append(batch_nats(score, batch, bos, piece_of(*batch.codes.shape)))
            lengths.append(batch.lengths.numpy())
            total, samples = total + float(nats[-1].sum()), samples + int(lengths[-1].sum())
            bar.update(len(batch.codes))
            bar.set_postfix_str(f"{total / samples / math.log(2):.4f} bits/sample")
    if not nats:
        raise UserError("there are no clips to evaluate")
    return audio_evaluation(np.concatenate(nats), np.concatenate(lengths), mode, time.perf_counter() - started)


def audio_evaluation(nats: Nats, lengths: NDArray[np.int64], mode: str, seconds: float) -> AudioEvaluation:
    """Average what clips of these lengths (n,) cost, nats float64 (n,)."""
    mean, stderr = ratio(nats / math.log(2), lengths)
    return AudioEvaluation(mean, stderr, len(nats), int(lengths.sum()), mode, seconds)


@torch.inference_mode()
def batch_nats(score: Scorer, batch: ClipBatch, bos: int, piece: int) -> Nats:
    """Return what each clip of a batch costs, in nats, float64 (B,); `piece` as for `clip_nats`.

    Padding stands behind the end of a row only, so by causality it disturbs nothing that counts.
    """
    return summed(clip_nats(score, batch.codes, bos, batch.labels, piece), batch.mask())


def piece_of(rows: int, longest: int, least: int = 1) -> int:
    """Return how many samples of each of `rows` clips, of `longest` at most, are scored at a time: at least `least`."""
    return max(least, min(longest, SAMPLES // rows), 1)


def clip_nats(score: Scorer, codes: Tensor, bos: int, label: Tensor | None, piece: int) -> Tensor:
    """Score whole clips in pieces of `piece` samples, with the state between them.

    codes int64 (B, L), label int64 (B,) or None. Returns -log p(x_t | x_<t) in nats, r(B, L). The last piece is filled
    up, so that it is computed as the others are, wherever the longest of the clips ends.
    """
    parts, state, length = [], None, codes.shape[1]
    codes = F.pad(codes, (0, -length % piece))
    for tokens, target in zip(fed(codes, bos).split(piece, 1), codes.split(piece, 1), strict=True):
        nats, state = score(tokens, target, state, label)
        parts.append(nats)
    return torch.cat(parts, dim=1)[:, :length]


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> tuple[float, float]:
    """Return sum / sum of values (n,) each, and its standard error to first order, NaN for n = 1.

    Source: Cochran, Sampling Techniques, section 2.11.
    """
    n, total = len(numerator), math.fsum(denominator.tolist())
    mean = math.fsum(numerator.tolist()) / total
    rest = math.fsum(((numerator - mean * denominator) ** 2).tolist())
    return mean, math.sqrt(n / (n - 1) * rest) / total if n > 1 else math.nan
