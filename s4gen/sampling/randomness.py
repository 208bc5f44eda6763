"""Random numbers that belong to a sequence, not to a batch, and the draw that uses them.

Sequence i of seed s reads its own stream of a counter-based generator, so it comes out the same whichever other
sequences are drawn beside it, and number t is always spent on position t.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from s4gen.errors import UserError

_AHEAD = 64
"""The fewest numbers that are made at a time: a call of the generator costs as much as a hundred numbers."""
_PER_COUNT = 4
"""How many numbers Philox4x64 makes from one value of its counter."""


def uniforms(seed: int, sequences: Iterable[int], length: int) -> Tensor:
    """Return the first `length` random numbers of each sequence: u[i, t] in [0, 1), float64 (n, length).

    Raises:
        UserError: the seed is not from 0 to 2^64 - 1.
    """
    _check_seed(seed)
    rows = [_generator(seed, i, 0).random(length) for i in sequences]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, length, dtype=torch.float64)


class Uniforms:
    """Gives the numbers of `uniforms` a few at a time, for each sequence from a position of its own on.

    Numbers that have been skipped are not kept, so memory stays small.
    """

    def __init__(self, seed: int, sequences: Sequence[int], positions: Sequence[int]) -> None:
        _check_seed(seed)
        self._generators = [_generator(seed, i, t) for i, t in zip(sequences, positions, strict=True)]
        self._ahead = np.empty((len(self._generators), 0))

    def peek(self, count: int) -> Tensor:
        """Return the next numbers of every sequence, float64 (n, count), without spending them; `skip` does that."""
        missing = count - self._ahead.shape[1]
        if missing > 0:
            more = [generator.random(max(missing, _AHEAD)) for generator in self._generators]
            self._ahead = np.concatenate([self._ahead, np.stack(more)], axis=1)
        return torch.from_numpy(self._ahead[:, :count].copy())

    def skip(self, count: int) -> None:
        """Spend the first `count` of the numbers that `peek` has returned."""
        self._ahead = self._ahead[:, count:]


def _generator(seed: int, sequence: int, position: int) -> np.random.Generator:
    """Return the generator of one sequence, which begins at one position.

    Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") has a key of two 64-bit words,
    here seed and sequence number. Different pairs are different keys, so no two streams can coincide.
    """
    bits = np.random.Philox(key=np.array([seed, sequence], dtype=np.uint64))
    bits.advance(position // _PER_COUNT)  # moves the counter; the numbers that remain are drawn and dropped
    generator = np.random.Generator(bits)
    generator.random(position % _PER_COUNT)
    return generator


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise UserError(f"the seed is {seed}, it must be an integer from 0 to 2^64 - 1")


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Draw one token per row by inverting the distribution function; return int64 (B,).

    logits are (B, V), u float64 (B,) in [0, 1). The token is the first whose cumulated probability, in float64, exceeds
    u times the total. A token of probability zero is never drawn, however sums are rounded. A row depends on no other.
    """
    probabilities = logits.double().softmax(dim=-1)
    # A parallel sum, as on a GPU, may rise by a rounding error where only zero is added. The mask keeps such a token
    # from being drawn.
    cumulated = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0.0, -1.0)
    threshold = u.unsqueeze(-1) * cumulated.amax(dim=-1, keepdim=True)  # u < 1: strictly below the total
    return (cumulated > threshold).to(torch.uint8).argmax(dim=-1)  # argmax of a 0/1 row is its first 1
