"""The readable engine, which defines what the others compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.models.states import copied
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import Filters
from s4gen.sampling.randomness import draw
from s4gen.sampling.repetition import with_drawn_seen, with_seen

ONE_THREAD = 5_000_000
"""Rows times parameters of a step for which a second thread gains nothing (measured: 0.96 to 1.02 times as fast below,
1.07 to 1.75 times above), and on a busy machine is only waited for."""


class PureStep(Protocol):
    """One step as pure functions: a state goes in, a new one comes out."""

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """token int64 (B,) -> logits of the next (B, V), state after it."""
        ...

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """The same, and one token drawn: token (B,), u float64 (B,) in [0, 1) -> token int64 (B,), state."""
        ...


class EagerStep:
    """The step of model, filters and draw, one PyTorch call after another."""

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self._recurrent = recurrent
        self._filters = filters

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        return self._recurrent.step(token, state)

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        logits, state = self._recurrent.step(token, state)
        drawn = draw(self._filters(self._filters.penalised(logits, state.seen)), u)
        return drawn, with_drawn_seen(state, drawn)


class EagerSession:
    """A session that takes one step after another. The state is replaced at the end of a call: an exception undoes it.

    Everything that a step sees is made in inference mode, whatever the caller's: torch.compile compiles once, not once
    for each mode. What is returned is in the caller's mode.
    """

    def __init__(self, step: PureStep, state: ModelState, one_thread: bool = False) -> None:
        """`one_thread`: PyTorch steps with one thread, whatever it has been told."""
        self._step, self._one_thread = step, one_thread
        with torch.inference_mode():
            self._state = copied(state)

    def feed(self, token: Tensor) -> Tensor:
        with torch.inference_mode(), _threads(1 if self._one_thread else None):
            logits, self._state = self._step.feed(token.clone(), self._state)
        return logits.clone()

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        state = self._state
        drawn = torch.empty(u.shape, dtype=torch.int64, device=token.device)
        with torch.inference_mode(), _threads(1 if self._one_thread else None):
            token, columns = token.clone(), by_column(u, token.device)
            for s, column in enumerate(columns):
                token, state = self._step.advance(token, state, column)
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
        self.filters = filters
        self._step, self._vocab = EagerStep(recurrent, filters), recurrent.config.layout.vocab
        self._parameters = sum(parameter.numel() for parameter in recurrent.stepper.parameters())
        self._on_cpu = recurrent.device.type == "cpu"

    def begin(self, state: ModelState) -> EagerSession:
        """See `Engine`."""
        state = with_seen(state, self._vocab) if self.filters.remembers else state
        small = self._on_cpu and len(state.position) * self._parameters < ONE_THREAD
        return EagerSession(self._step, state, one_thread=small)


def by_column(u: Tensor, device: torch.device) -> Tensor:
    """(B, S) -> (S, B) on the device, each column in one piece: to a compiled step it looks the same for every S."""
    return torch.empty(u.shape[::-1], dtype=u.dtype, device=device).copy_(u.t())


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads for a while; None: as many as before."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
