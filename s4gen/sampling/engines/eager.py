"""The readable engine, which defines what the others compute."""

from __future__ import annotations

from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import Filters
from s4gen.sampling.randomness import draw


class EagerEngine:
    """One PyTorch call after another: no start-up time."""

    name = "eager"

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self._recurrent = recurrent
        self._filters = filters

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        return self._recurrent.step(token, state)

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        logits, state = self._recurrent.step(token, state)
        return draw(self._filters(logits), u), state
