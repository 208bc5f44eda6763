"""Bits per sample of recordings under a model: every sample of every clip once, padding never.

    bits/sample = sum of -log2 p(x) / sum of lengths,    over clips x of any lengths

so that a long clip counts as much as its samples do, and the number compares with what a compressor makes of the same
clips. Its standard error is that of a ratio of two sums over clips (Cochran, Sampling Techniques, section 2.11).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.data.audio.batches import ClipBatch
from s4gen.errors import UserError
from s4gen.memory import keep_freed_memory
from s4gen.models.density import DensityModel
from s4gen.progress import progress_bar

SAMPLES = 1 << 18
"""Of all rows, scored at a time, so that memory does not grow with the length of a recording."""

Score = Callable[[Tensor, Tensor | None], Tensor]
"""Codes int64 (B, L), labels int64 (B,) or None -> -log p(x_t | x_<t) in nats (B, L)."""


@dataclass(frozen=True)
class AudioEvaluation:
    """What recordings cost under a model."""

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
    score: Score, batches: Iterable[ClipBatch], n: int, mode: str, progress: bool = False
) -> AudioEvaluation:
    """Score all rows of all batches, n in all.

    Raises:
        UserError: there are none.
    """
    keep_freed_memory()
    started = time.perf_counter()
    bits, lengths = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.int64)]
    with torch.inference_mode(), progress_bar(n, "clip", progress, desc=f"scoring ({mode})") as bar:
        for batch in batches:
            nats = score(batch.codes, batch.labels).double().cpu()
            bits.append(torch.where(batch.mask(), nats, 0).sum(-1) / math.log(2))
            lengths.append(batch.lengths)
            bar.set_postfix_str(f"{ratio(torch.cat(bits), torch.cat(lengths))[0]:.4f} bits/sample")
            bar.update(len(nats))
    cost, samples = torch.cat(bits), torch.cat(lengths)
    if not len(cost):
        raise UserError("there are no clips to evaluate")
    mean, stderr = ratio(cost, samples)
    return AudioEvaluation(mean, stderr, len(cost), int(samples.sum()), mode, time.perf_counter() - started)


def ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float]:
    """sum / sum of (n,) each, and its standard error to first order, NaN for n = 1."""
    n, total = len(numerator), denominator.sum().item()
    mean = numerator.sum().item() / total
    rest = (numerator - mean * denominator).square().sum().item()
    return mean, math.sqrt(n / (n - 1) * rest) / total if n > 1 else math.nan


def by_convolution(model: DensityModel) -> Score:
    """The convolution view of a model, in chunks with the state between them."""

    def score(x: Tensor, label: Tensor | None) -> Tensor:
        x = x.to(model.device)
        fed, parts, state = F.pad(x[:, :-1], (1, 0), value=model.bos), [], None
        chunk = max(1, SAMPLES // len(x))
        for tokens, target in zip(fed.split(chunk, 1), x.split(chunk, 1), strict=True):
            nats, state = model.score(tokens, target, state, label)
            parts.append(nats)
        return torch.cat(parts, dim=1)

    return score
