"""Generation driven on and on, to be timed: many tokens are asked for at once, as generation itself asks for them."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from s4gen.config import DensityConfig
from s4gen.machine.timing import seconds
from s4gen.models.density import ModelState
from s4gen.sampling.chunking import SECONDS
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine

TakeSteps = Callable[[int], object]
"""Takes that many steps."""

TOKENS_AT_A_TIME = 4096
"""Tokens of one convolution on the way to a far position, so that its activations do not fill the memory."""
_REACH_SECONDS = 60.0
"""Seconds for going to far positions; one that is not reached in it is left out."""


class TimedGeneration:
    """A batch of sequences being drawn by an engine, which counts its steps and knows how many make a fair chunk."""

    def __init__(self, engine: Engine, state: ModelState, token: int = 0, period: int = 1) -> None:
        """Go on from `state`, `token` being the last token of every sequence.

        Steps come in multiples of `period`, after which their costs repeat: see `turn_of`.
        """
        self._period = period
        self._session = engine.begin(state)
        self._token = torch.full_like(state.position, token)
        self.taken = 0

    def __call__(self, steps: int) -> None:
        """Draw that many more tokens for every sequence."""
        u = torch.rand(len(self._token), steps, dtype=torch.float64)
        self._token = self._session.advance(self._token, u)[:, -1]
        self.taken += steps

    def turn(self) -> None:
        """Draw one more token for every sequence, or as many as make a whole period."""
        self(self._period)

    def chunk(self, device: torch.device, length: int) -> int:
        """Return the number of steps to ask for at once: as many as generation would, at most a quarter of `length`."""
        each = seconds(self.turn, device) / self._period
        return self._period * max(1, round(min(SECONDS / each, length // 4) / self._period))


def turn_of(config: DensityConfig) -> int:
    """Return the number of steps in which every part of the model runs its share, so that their mean is fair.

    In a multi-scale stack, a level runs once in as many steps as all strides down to it make; the stack of whole
    pixels runs once per pixel.
    """
    return math.prod(config.model.pool) * config.tokens_per_input


def repeated(step: Callable[[], object]) -> TakeSteps:
    """Return a function that takes this one step n times."""

    def steps(n: int) -> None:
        for _ in range(n):
            step()

    return steps


def states_at(recurrent: RecurrentModel, batch: int, positions: Sequence[int]) -> dict[int, ModelState]:
    """Return the states after random sequences of these lengths, by length, as far as the time allows.

    They are read by the convolution view, so nothing has to be stepped through.
    """
    deadline = time.perf_counter() + _REACH_SECONDS
    state, reached, found = None, 0, {}
    for position in sorted(positions):
        while reached < position and time.perf_counter() < deadline:
            n = min(TOKENS_AT_A_TIME, position - reached)
            tokens = torch.randint(recurrent.config.layout.vocab, (batch, n), device=recurrent.device)
            _, state = recurrent.prefill(tokens, state)
            reached += n
        if reached == position and state is not None:
            found[position] = state
    return found


def ms_in_turn(ways: Mapping[int, TakeSteps], device: torch.device, budget: float, period: int = 1) -> dict[int, float]:
    """Time steps of each way for `budget` seconds in all, in multiples of `period`; return median milliseconds of one.

    The ways take turns, so that a disturbance of the machine falls on all alike; each is timed at least three times.
    """

    def timed(steps: TakeSteps, n: int) -> float:
        return seconds(functools.partial(steps, n), device) / n

    for steps in ways.values():  # the first turn of each warms up
        timed(steps, period)
    group = {key: period * max(1, round(SECONDS / timed(steps, period) / period)) for key, steps in ways.items()}
    times: dict[int, list[float]] = {key: [] for key in ways}
    deadline = time.perf_counter() + budget
    while time.perf_counter() < deadline or any(len(taken) < 3 for taken in times.values()):
        for key, steps in ways.items():
            times[key].append(timed(steps, group[key]))
    return {key: 1e3 * statistics.median(taken) for key, taken in times.items()}
