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

import torch
from torch import Tensor

from s4gen.data.audio.batches import ClipBatch
from s4gen.errors import UserError
from s4gen.evaluate.scorers import Scorer, fed
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
    bits, lengths = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.int64)]
    with torch.inference_mode(), progress_bar(n, "clip", progress, desc=f"scoring ({mode})") as bar:
        for batch in batches:
            nats = clip_nats(score, batch.codes, bos, batch.labels).double().cpu()
            # Padding stands behind the end of a row only, so by causality it disturbs nothing that counts.
            bits.append(torch.where(batch.mask(), nats, 0).sum(-1) / math.log(2))
            lengths.append(batch.lengths)
            bar.set_postfix_str(f"{ratio(torch.cat(bits), torch.cat(lengths))[0]:.4f} bits/sample")
            bar.update(len(nats))
    cost, samples = torch.cat(bits), torch.cat(lengths)
    if not len(cost):
        raise UserError("there are no clips to evaluate")
    mean, stderr = ratio(cost, samples)
    return AudioEvaluation(mean, stderr, len(cost), int(samples.sum()), mode, time.perf_counter() - started)


def clip_nats(score: Scorer, codes: Tensor, bos: int, label: Tensor | None) -> Tensor:
    """Score whole clips in pieces of at most `SAMPLES` samples, all rows together, with the state between them.

    codes int64 (B, L), label int64 (B,) or None. Returns -log p(x_t | x_<t) in nats, r(B, L).
    """
    parts, state = [], None
    piece = max(1, SAMPLES // len(codes))
    for tokens, target in zip(fed(codes, bos).split(piece, 1), codes.split(piece, 1), strict=True):
        nats, state = score(tokens, target, state, label)
        parts.append(nats)
    return torch.cat(parts, dim=1)


def ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float]:
    """Return sum / sum of values (n,) each, and its standard error to first order, NaN for n = 1.

    Source: Cochran, Sampling Techniques, section 2.11.
    """
    n, total = len(numerator), denominator.sum().item()
    mean = numerator.sum().item() / total
    rest = (numerator - mean * denominator).square().sum().item()
    return mean, math.sqrt(n / (n - 1) * rest) / total if n > 1 else math.nan
