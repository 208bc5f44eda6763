"""A step on a GPU as one launch: a CUDA graph over tensors that stay where they are, the draw included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.models.states import copied, tensors

STEPS = 256
"""Random numbers and drawn tokens that the buffers hold for each row."""
_WARM_UPS = 3

Capture = Callable[[Callable[[], None]], Callable[[], Any]]
"""Of a function that works on fixed tensors, one that does the same; the function may run a few times meanwhile."""
AdvanceInPlace = Callable[[Tensor, ModelState, Tensor], None]
"""Feed token int64 (B,) and put in its place the one drawn with u (B,); the state moves on in its tensors."""


def cuda_graph(function: Callable[[], None]) -> Callable[[], Any]:
    """The replay of a CUDA graph of the function, after the warm-up in another stream that a capture asks for."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            function()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class InPlaceStep(Protocol):
    """What is captured: forms of a step that move their arguments on; `due` says which of them a position needs."""

    @property
    def advances_in_place(self) -> Sequence[AdvanceInPlace]: ...

    def due(self, position: Tensor) -> int:
        """Which step is the one at position int64 (B,)."""
        ...

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """token int64 (B,) -> logits of the next (B, V), state after it."""
        ...


def in_place(advance: Callable[..., tuple[Tensor, ModelState]]) -> AdvanceInPlace:
    """`advance` in place; compiled, it reads and writes the state once."""

    def advance_in_place(token: Tensor, state: ModelState, u: Tensor) -> None:
        new_token, new_state = advance(token, state, u)
        token.copy_(new_token)
        put(state, new_state)

    return advance_in_place


def put(state: ModelState, new: ModelState) -> None:
    """Write a state into the tensors of another."""
    for tensor, value in zip(tensors(state), tensors(new), strict=True):
        tensor.copy_(value)


class GraphedSession:
    """A session whose steps are captured once and replayed; tokens, random numbers and state never leave the device.

    An exception in the midst of `advance` leaves a state between the old and the new one.
    """

    def __init__(self, step: InPlaceStep, state: ModelState, capture: Capture = cuda_graph) -> None:
        self._forms = step
        rows, device = len(state.position), state.position.device
        with torch.inference_mode():
            self._state = copied(state)
            self._token = torch.zeros(rows, dtype=torch.int64, device=device)
            self._column = torch.zeros(1, dtype=torch.int64, device=device)
            self._u = torch.zeros(rows, STEPS, dtype=torch.float64, device=device)
            self._drawn = torch.zeros(rows, STEPS, dtype=torch.int64, device=device)
            self._replays = [capture(functools.partial(self._step, each)) for each in step.advances_in_place]
            put(self._state, state)  # capturing has moved it

    def _step(self, advance_in_place: AdvanceInPlace) -> None:
        """One step from the buffers to the buffers."""
        u = self._u.index_select(1, self._column)[:, 0]
        advance_in_place(self._token, self._state, u)
        self._drawn.index_copy_(1, self._column, self._token[:, None])
        self._column.add_(1)

    def feed(self, token: Tensor) -> Tensor:
        with torch.inference_mode():
            logits, state = self._forms.feed(token.clone(), self._state)
            put(self._state, state)
        return logits.clone()

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        parts = []
        with torch.inference_mode():
            self._token.copy_(token)
            position = self._state.position.to("cpu", copy=True)
            for part in u.split(STEPS, dim=1):
                steps = part.shape[1]
                self._u[:, :steps] = part.to(self._u.device)
                self._column.zero_()
                for s in range(steps):
                    self._replays[self._forms.due(position + s)]()
                position = position + steps
                parts.append(self._drawn[:, :steps].clone())
        return torch.cat(parts, dim=1)

    def state(self) -> ModelState:
        return copied(self._state)
