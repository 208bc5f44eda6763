"""Order the tokens that a language model reads: rows that go on from batch to batch, one stream, or windows.

Everything is pairs (x, y) of int64: y is what to predict, x the token before each. The state after one chunk is the
state before the next; carrying it is the caller's part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s4gen.bulk.dealing import Batches
from s4gen.errors import UserError
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from torch import Tensor


class TrainStream:
    """Contiguous rows for truncated backpropagation through time.

    The corpus is a circle. Row b of R starts at token floor(b n / R) of n and reads on, chunk after chunk, for ever; so
    rows never need a fresh state, all chunks have the same length, and nothing is left out: after any number of steps
    every token has been read floor(T R / n) or ceil(T R / n) times, T being the tokens that each row has read. In an
    epoch row b reads its own n / R tokens, in the next one those of row b + 1. Step numbers are all there is to resume.
    """

    def __init__(self, tokens: NDArray[Any], rows: int, chunk: int, rank: int = 0, world: int = 1) -> None:
        """Take tokens (n,), and `rows` of each of `world` processes, of which this is number `rank`; R = rows * world.

        Raises:
            UserError: there are fewer tokens than rows.
        """
        if len(tokens) < rows * world:
            raise UserError(
                f"the text has {plural(len(tokens), 'token')}, fewer than the {rows * world} rows of a batch: "
                "expected a longer text or a smaller batch"
            )
        self._tokens, self._chunk = tokens, chunk
        self._starts = np.array([row * len(tokens) // (rows * world) for row in range(rank * rows, (rank + 1) * rows)])
        self._per_step = rows * world * chunk

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return x and y of a step, each int64 (rows, chunk). Row b of step s + 1 follows row b of step s."""
        import torch

        n = len(self._tokens)
        first = (self._starts + step * self._chunk % n)[:, None]
        both = self._tokens[(first + np.arange(-1, self._chunk)) % n].astype(np.int64)
        found = torch.from_numpy(both)
        return found[:, :-1].contiguous(), found[:, 1:].contiguous()

    def epoch(self, step: int) -> float:
        """Return how often the corpus has been read before this step, by all processes together."""
        return step * self._per_step / len(self._tokens)

    def steps(self, epochs: float) -> int:
        """Return the steps after which the corpus has been read that often, rounded up."""
        return math.ceil(epochs * len(self._tokens) / self._per_step)


def one_stream(tokens: NDArray[Any], start: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split as one row, x and y int64 (1, <= chunk); with the state carried, every token has its full past.

    Each token is predicted exactly once, the first one from the token `start`, which is the tokeniser's `<eos>`.
    """
    for batch in window_batches(len(tokens), chunk, 1):
        yield window_pair(tokens, start, chunk, batch)


def windows(tokens: NDArray[Any], start: int, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield windows side by side, x and y int64 (<= rows, length), each from a fresh state; a shorter last one alone.

    Each token is predicted exactly once, from the tokens of its window before it and the one before the window
    (`start` for the first): the protocol of most published numbers.
    """
    for batch in window_batches(len(tokens), length, rows):
        yield window_pair(tokens, start, length, batch)


def window_batches(n: int, length: int, rows: int) -> Batches:
    """Return the windows of `length` of n tokens, `rows` at a time; a shorter last one is by itself."""
    return Batches(-(-n // length), rows, last_alone=n % length > 0)


def window_pair(tokens: NDArray[Any], start: int, length: int, numbers: range) -> tuple[Tensor, Tensor]:
    """Return x and y, int64 (len(numbers), length), of the windows of these numbers; all of them have one length."""
    import torch

    begins = [number * length for number in numbers]
    y = np.stack([tokens[begin : begin + length] for begin in begins]).astype(np.int64)
    before = [int(tokens[begin - 1]) if begin else start for begin in begins]
    x = np.concatenate([np.array(before)[:, None], y[:, :-1]], axis=1)
    return torch.from_numpy(x), torch.from_numpy(y)
