"""Random numbers that belong to a sequence, not to a batch, and the draw that uses them.

Sequence i of seed s reads its own stream of a counter-based generator, so it comes out the same whichever other
sequences are drawn beside it, and number t is always spent on position t.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from s4gen.errors import UserError


def uniforms(seed: int, sequences: Iterable[int], length: int) -> Tensor:
    """u[i, t] in [0, 1), float64 (n, length), for the given sequence numbers.

    Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") takes a key of two 64-bit words,
    here (seed, sequence number): two different pairs are two different keys, so no two streams can coincide.
    """
    if not 0 <= seed < 2**64:
        raise UserError(f"the seed is {seed}, it must be an integer from 0 to 2^64 - 1")
    keys = [np.array([seed, i], dtype=np.uint64) for i in sequences]
    rows = [np.random.Generator(np.random.Philox(key=key)).random(length) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, length, dtype=torch.float64)


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """One token per row by inverting the distribution function: logits (B, V), u (B,) float64 -> (B,) int64.

    In float64. The token is the first whose cumulated probability exceeds u times the total; a token of probability
    zero is never drawn, whatever the rounding. Row b depends on nothing but row b.
    """
    probabilities = logits.double().softmax(dim=-1)
    # A parallel sum, as on a GPU, may rise by a rounding error where nothing is added: hence the mask.
    cumulated = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0.0, -1.0)
    threshold = u.unsqueeze(-1) * cumulated.amax(dim=-1, keepdim=True)  # u < 1: strictly below the total
    return (cumulated > threshold).to(torch.uint8).argmax(dim=-1)  # argmax of a 0/1 row is its first 1
