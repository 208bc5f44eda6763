"""Repetition penalty: tokens that a text has become less likely in it (after Keskar et al. 2019, arXiv 1909.05858).

A seen token's probability p becomes p^penalty, and all are normalised again; so it does not matter whether the model
gives logits or log-probabilities. It comes before the filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.eager import SteppedSession
from s4gen.sampling.filters import Filters
from s4gen.sampling.prompts import Start
from s4gen.sampling.randomness import draw


class SeenState(NamedTuple):
    """A `ModelState`, and what each row has had."""

    position: Tensor
    blocks: tuple[object, ...]
    label: Tensor | tuple[()]
    recent: Tensor | tuple[()]
    seen: Tensor  # bool (B, V)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) -> log-probabilities to the power of the penalty where `seen` bool (B, V), not normalised."""
    log_p = logits.double().log_softmax(dim=-1)
    return torch.where(seen, penalty * log_p, log_p)


def remembering(start: Start, prompts: Sequence[Tensor], vocab: int) -> Start:
    """The same start with a memory of the prompts (P_i,), one for each row."""
    seen = torch.zeros(len(prompts), vocab, dtype=torch.bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[prompt] = True
    return Start(start.token, SeenState(*start.state, seen.to(start.state.position.device)))  # type: ignore[arg-type]


class PenalisedEngine:
    """The eager engine with a penalty; its states are `SeenState`."""

    name = "eager"
    row_multiple = 4

    def __init__(self, recurrent: RecurrentModel, filters: Filters, penalty: float) -> None:
        self._recurrent, self.filters, self._penalty = recurrent, filters, penalty

    def begin(self, state: ModelState) -> SteppedSession:
        return SteppedSession(self, state)

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """See `Steps`."""
        logits, after = self._recurrent.step(token, state)
        return logits, SeenState(*after, state.seen)  # type: ignore[return-value, attr-defined]

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """See `Steps`. What is drawn counts as seen from now on."""
        logits, after = self._recurrent.step(token, state)
        seen = state.seen  # type: ignore[attr-defined]
        drawn = draw(self.filters(penalised(logits, seen, self._penalty)), u)
        seen = seen.scatter(1, drawn[:, None], True)
        return drawn, SeenState(*after, seen)  # type: ignore[return-value]
