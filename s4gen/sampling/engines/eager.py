"""The readable engine, which defines what the others compute."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import Filters
from s4gen.sampling.randomness import draw
from s4gen.sampling.states import copied


class Steps(Protocol):
    """One step as pure functions: a state goes in, a new one comes out."""

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """token int64 (B,) -> logits of the next (B, V), state after it."""
        ...

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """The same, and one token drawn: token (B,), u float64 (B,) in [0, 1) -> token int64 (B,), state."""
        ...


class EagerSteps:
    """Model, filters and draw, one PyTorch call after another."""

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self._recurrent = recurrent
        self._filters = filters

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        return self._recurrent.step(token, state)

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        logits, state = self._recurrent.step(token, state)
        return draw(self._filters(logits), u), state


class SteppedSession:
    """A session that takes one step after another. The state is replaced at the end of a call: an exception undoes it.

    Everything that a step sees is made in inference mode, whatever the caller's: torch.compile compiles once, not once
    for each mode. What is returned is in the caller's mode.
    """

    def __init__(self, steps: Steps, state: ModelState) -> None:
        self._steps = steps
        with torch.inference_mode():
            self._state = copied(state)

    def feed(self, token: Tensor) -> Tensor:
        with torch.inference_mode():
            logits, self._state = self._steps.feed(token.clone(), self._state)
        return logits.clone()

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        state = self._state
        drawn = torch.empty(u.shape, dtype=torch.int64, device=token.device)
        with torch.inference_mode():
            token, columns = token.clone(), by_column(u, token.device)
            for s, column in enumerate(columns):
                token, state = self._steps.advance(token, state, column)
                drawn[:, s] = token
        self._state = state
        return drawn

    def state(self) -> ModelState:
        return copied(self._state)


class EagerEngine:
    """No start-up time."""

    name = "eager"
    row_multiple = 4
    """For such numbers of rows each row of PyTorch's float32 matrix products on a CPU does not depend on how many
    others there are (measured; it does for 1, 2, 3, 5, 6, 7, 9, 10 and 11 rows)."""

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self._steps = EagerSteps(recurrent, filters)

    def begin(self, state: ModelState) -> SteppedSession:
        return SteppedSession(self._steps, state)


def by_column(u: Tensor, device: torch.device) -> Tensor:
    """(B, S) -> (S, B) on the device, each column in one piece: to a compiled step it looks the same for every S."""
    return torch.empty(u.shape[::-1], dtype=u.dtype, device=device).copy_(u.t())
