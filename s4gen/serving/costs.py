"""Compute the costs of a row's tokens under the model itself, without filters, and find the likeliest other tokens.

The engine that draws tells only what it has drawn. So a second session of the same model is fed the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from s4gen.models.states import chosen_rows, padded_rows
from s4gen.sampling.engines import Engine
from s4gen.sampling.prompts import Start


class Cost(NamedTuple):
    """The cost of one token."""

    log_probability: float
    """log p of the token, in nats."""
    likeliest: list[tuple[int, float]]
    """The likeliest tokens with their log p, the likeliest first."""


class Costs:
    """Tells what the next tokens of one row cost."""

    def __init__(self, engine: Engine, start: Start, likeliest: int) -> None:
        """Begin where the row stands; `start` is one row. `likeliest` tokens are told at each position, 0 or more."""
        self._rows = padded_rows(1, engine.row_multiple)
        self._session = engine.begin(chosen_rows(start.state, self._rows))
        self._token, self._likeliest = start.token, likeliest

    def of(self, tokens: Sequence[int]) -> list[Cost]:
        """Return the cost of each of the tokens that come next."""
        found = []
        for token in tokens:
            logits = self._session.feed(self._token[torch.zeros_like(self._rows)])[0]
            logp = logits.cpu().double().log_softmax(-1)
            best = logp.topk(min(self._likeliest, len(logp)))
            pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            found.append(Cost(float(logp[token]), pairs))
            self._token = torch.full_like(self._token, token)
        return found
