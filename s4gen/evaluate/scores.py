"""Compute the costs of single sequences of any length, token by token, and compare them with the costs of others.

A sequence comes in blocks and is scored in pieces, with the state between them, so memory does not grow with its
length. Under a model that is conditional on classes, a sequence of unknown class costs what it costs under all of them
together, each as likely as any other:

    p(x) = mean over classes c of p(x | c),    -log p(x_t | x_<t) = M_t - M_(t-1),  M_t = -log p(x_1 .. x_t)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from s4gen.evaluate.scorers import Nats, Scorer

Costs = NDArray[np.float64]
"""The costs -log p of tokens in nats (B, L)."""


class FileCosts:
    """Scores the rows of a block of sequences, and knows afterwards how likely each class is."""

    def __init__(self, score: Scorer, bos: int, piece: int, labels: Tensor | None = None, least: int = 1) -> None:
        """Prepare to score.

        Args:
            score: the view of the model that scores.
            bos: the token that the model is fed before the first one of a sequence.
            piece: tokens of a row that are scored at a time.
            labels: int64 (K,), the classes that a sequence may be of, for a model that is conditional on them.
            least: tokens that a piece is filled up to at least, behind its end, which by causality changes nothing.
        """
        self._score, self._bos, self._piece, self._labels, self._least = score, bos, piece, labels, least
        self._by_class = np.zeros((0, 0))

    def of(self, blocks: Iterable[Tensor]) -> Iterator[Costs]:
        """Yield what the tokens of sequences cost, in nats (B, n), piece by piece.

        The sequences come as blocks of their tokens, int64 (B, n) each, n >= 1, of which B is the same in all.
        """
        classes = 1 if self._labels is None else len(self._labels)
        last: Tensor | None = None
        state = None
        for target in in_pieces(blocks, self._piece):
            rows, n = target.shape
            if last is None:
                last, self._by_class = target.new_full((rows, 1), self._bos), np.zeros((rows, classes))
            tokens, last = torch.cat((last, target[:, :-1]), dim=1), target[:, -1:]
            missing = (0, max(0, self._least - n))
            tokens, filled = (F.pad(x, missing).repeat_interleave(classes, dim=0) for x in (tokens, target))
            label = None if self._labels is None else self._labels.repeat(rows)
            with torch.inference_mode():
                nats, state = self._score(tokens, filled, state, label)
            yield self._of_any_class(nats[:, :n].double().cpu().numpy().reshape(rows, classes, n))

    def classes(self) -> NDArray[np.float64]:
        """Return the probability of each class given the whole sequence, (B, K); without classes K is 1."""
        found: NDArray[np.float64] = np.exp(-self._by_class - _log_sum(-self._by_class))
        return found

    def _of_any_class(self, nats: NDArray[np.float64]) -> Costs:
        """Return what tokens cost whose cost under each class is nats (B, K, n)."""
        if nats.shape[1] == 1:
            return nats[:, 0]
        before, total = self._by_class[..., None], self._by_class[..., None] + nats.cumsum(axis=-1)
        self._by_class = total[..., -1]
        # log K of the mean stands in both terms of every difference, but for the first one, where M_0 = 0 has it, too.
        mixed = -_log_sum(-np.concatenate((before, total), axis=-1))[:, 0]
        found: Costs = np.diff(mixed, axis=-1)
        return found


def in_pieces(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup blocks (B, n) of any lengths n along their second axis into pieces of `size`, the last one shorter."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        if sum(part.shape[1] for part in held) < size:
            continue
        *pieces, rest = torch.cat(held, dim=1).split(size, dim=1)
        held = [rest] if rest.shape[1] < size else []
        yield from pieces if held else [*pieces, rest]
    if held:
        yield torch.cat(held, dim=1)


def percentile(cost: float, others: Nats) -> float:
    """Return the percentage of `others` (n,), n >= 1, that cost less than `cost`; those that cost the same count half.

    So 0 is likelier than all of them, and 100 less likely than all of them.
    """
    return float(100 * ((others < cost).mean() + (others == cost).mean() / 2))


def separation(low: Nats, high: Nats) -> float:
    """Return the probability that a cost of `high` (m,) is above one of `low` (n,): the area under the ROC curve.

    1 means that a threshold separates them, 0.5 that their costs say nothing, 0 that they are the wrong way round.
    """
    return math.fsum(percentile(cost, low) for cost in high.tolist()) / (100 * len(high))


def _log_sum(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log of the sum of e^x along the second axis, which stays with length 1."""
    top = x.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = top + np.log(np.exp(x - top).sum(axis=1, keepdims=True))
    return found
