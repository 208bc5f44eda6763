"""A step on a GPU as one launch: a CUDA graph, draw included, over tensors that stay at their addresses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.models.states import copied, tensors

STEPS = 256
"""How many random numbers and drawn tokens the buffers hold for each row."""
_WARM_UPS = 3

Capture = Callable[[Callable[[], None]], Callable[[], Any]]
"""A function that takes a function on fixed tensors and returns one that does the same; it may run it a few times."""
AdvanceInPlace = Callable[[Tensor, ModelState, Tensor], None]
"""A step in place: token int64 (B,) is fed, and replaced by the one drawn with u (B,); the state changes in place."""


def cuda_graph(function: Callable[[], None]) -> Callable[[], Any]:
    """Capture the function in a CUDA graph and return the replay of that graph.

    PyTorch asks for a few runs in another stream before a capture, in which libraries set themselves up.
    """
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
    """A step that can be captured. It may have several forms, of which `due` names the one that a position needs."""

    @property
    def advances_in_place(self) -> Sequence[AdvanceInPlace]:
        """The forms of the step, all in place."""
        ...

    def due(self, position: Tensor) -> int:
        """Return the number of the form for the step at position int64 (B,)."""
        ...

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed token int64 (B,); return logits (B, V) for the next one, and the state after it."""
        ...


def in_place(advance: Callable[..., tuple[Tensor, ModelState]]) -> AdvanceInPlace:
    """Make a step in place from `advance`. Compiled as one, it reads and writes the state only once."""

    def advance_in_place(token: Tensor, state: ModelState, u: Tensor) -> None:
        new_token, new_state = advance(token, state, u)
        token.copy_(new_token)
        put(state, new_state)

    return advance_in_place


def put(state: ModelState, new: ModelState) -> None:
    """Write the state `new` into the tensors of `state`."""
    for tensor, value in zip(tensors(state), tensors(new), strict=True):
        tensor.copy_(value)


class GraphedSession:
    """A session whose steps are captured once and then replayed; tokens and state stay on the device meanwhile.

    An exception in the middle of `advance` leaves a state between the old one and the new one.
    """

    def __init__(self, step: InPlaceStep, state: ModelState, capture: Capture = cuda_graph) -> None:
        """Start from a copy of `state`. `capture` is another function in tests, which run without a GPU."""
        self._forms = step
        rows, device = len(state.position), state.position.device
        with torch.inference_mode():
            self._state = copied(state)
            self._token = torch.zeros(rows, dtype=torch.int64, device=device)
            self._column = torch.zeros(1, dtype=torch.int64, device=device)
            self._u = torch.zeros(rows, STEPS, dtype=torch.float64, device=device)
            self._drawn = torch.zeros(rows, STEPS, dtype=torch.int64, device=device)
            self._replays = [capture(functools.partial(self._step, each)) for each in step.advances_in_place]
            put(self._state, state)  # capturing may have stepped it

    def _step(self, advance_in_place: AdvanceInPlace) -> None:
        """Take one step, from the buffers to the buffers. The column is a tensor, so that the graph can count it up."""
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
            # Positions are counted here as well: to ask the device for them in each step would wait for it.
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
