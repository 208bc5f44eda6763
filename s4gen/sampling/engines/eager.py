"""The eager engine: the readable one, which defines what the others compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.models.states import copied, tensors
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import Filters
from s4gen.sampling.randomness import draw
from s4gen.sampling.repetition import with_drawn_seen, with_seen

ONE_THREAD = 5_000_000
"""Below this product of rows and parameters a step runs in one thread. Measured: a second thread makes it 0.96 to 1.02
times as fast below, and 1.07 to 1.75 times above; on a busy machine the first one only waits for it."""


class PureStep(Protocol):
    """One step as pure functions, which take a state and return a new one."""

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed token int64 (B,); return logits (B, V) for the next one, and the state after it."""
        ...

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """Feed token int64 (B,) and draw with u float64 (B,) in [0, 1); return the token drawn, and the state."""
        ...


class EagerStep:
    """The step of model, filters and draw as plain calls of PyTorch; see `PureStep`."""

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
    """A session that takes one step after another.

    The state is replaced only at the end of a call, so after an exception the session stands where it stood before.

    Everything that a step sees is made in inference mode, whatever the mode of the caller. Otherwise torch.compile
    would compile once for each mode. Tensors that are returned are in the caller's mode.
    """

    def __init__(self, step: PureStep, state: ModelState, one_thread: bool = False) -> None:
        """Start from a copy of `state`. With `one_thread`, PyTorch steps in one thread, whatever its setting."""
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
            _check_finite(state)
        self._state = state
        return drawn

    def state(self) -> ModelState:
        return copied(self._state)


class EagerEngine:
    """The engine without start-up time, which has every filter and runs every model."""

    name = "eager"
    row_multiple = 4
    """With multiples of 4 rows, each row of PyTorch's float32 matrix products on a CPU has the same bits however many
    rows there are. (Measured: with 1, 2, 3, 5, 6, 7, 9, 10 and 11 rows it has not.)"""

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
    """Transpose u (B, S) to (S, B) on the device.

    Each step's numbers then lie in one piece of memory, which looks the same to a compiled step for every S.
    """
    return torch.empty(u.shape[::-1], dtype=u.dtype, device=device).copy_(u.t())


def _check_finite(state: ModelState) -> None:
    """Refuse to go on from a state that is no numbers, of which every logit would be none and every token number 0.

    Raises:
        UserError: some number in it is NaN or infinite.
    """
    if not all(bool(x.isfinite().all()) for x in tensors(state) if x.is_floating_point()):
        raise UserError("the model's output is not a finite number; its training must have diverged")


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use `count` threads inside of the block; None leaves the number as it is."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
