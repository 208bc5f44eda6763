"""A session driven on and on, to be timed: many tokens at once, as generation asks for them."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from s4gen.config import DensityConfig
from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.pacing import SECONDS
from s4gen.timing import seconds

Steps = Callable[[int], object]
"""Takes that many steps."""

_PREFILL_CHUNK = 4096  # tokens per convolution on the way to a far position
_REACH_SECONDS = 60.0  # for going to far positions; one that takes longer is left out


class Stepping:
    """A batch of sequences being generated."""

    def __init__(self, engine: Engine, state: ModelState, token: int = 0, period: int = 1) -> None:
        """Go on from `state`, `token` being the last one of every sequence.

        Steps come in multiples of `period`, after which what they cost begins again: see `turn_of`.
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
        """Steps to ask for at once: as many as generation would, but at most a quarter of a sequence."""
        each = seconds(self.turn, device) / self._period
        return self._period * max(1, round(min(SECONDS / each, length // 4) / self._period))


def turn_of(config: DensityConfig) -> int:
    """Steps in which every part of a model runs as often as in any others: the mean over them is fair.

    Those are the levels of a multi-scale stack, or the stack of whole pixels.
    """
    return math.prod(config.model.pool) * config.tokens_per_input


def repeated(step: Callable[[], object]) -> Steps:
    """One step, that many times."""

    def steps(n: int) -> None:
        for _ in range(n):
            step()

    return steps


def states_at(recurrent: RecurrentModel, batch: int, positions: Sequence[int]) -> dict[int, ModelState]:
    """The states after random sequences of these lengths, as far as the time allows.

    They come from the convolution view, so nothing has to be stepped through.
    """
    deadline = time.perf_counter() + _REACH_SECONDS
    state, reached, found = None, 0, {}
    for position in sorted(positions):
        while reached < position and time.perf_counter() < deadline:
            n = min(_PREFILL_CHUNK, position - reached)
            tokens = torch.randint(recurrent.config.layout.vocab, (batch, n), device=recurrent.device)
            _, state = recurrent.prefill(tokens, state)
            reached += n
        if reached == position and state is not None:
            found[position] = state
    return found


def ms_in_turn(ways: Mapping[int, Steps], device: torch.device, budget: float, period: int = 1) -> dict[int, float]:
    """Median ms of a step of each, over multiples of `period` steps.

    They take turns, so that a disturbance of the machine falls on all alike.
    """

    def timed(steps: Steps, n: int) -> float:
        return seconds(functools.partial(steps, n), device) / n

    for steps in ways.values():
        timed(steps, period)
    group = {key: period * max(1, round(SECONDS / timed(steps, period) / period)) for key, steps in ways.items()}
    times: dict[int, list[float]] = {key: [] for key in ways}
    deadline = time.perf_counter() + budget
    while time.perf_counter() < deadline or any(len(taken) < 3 for taken in times.values()):
        for key, steps in ways.items():
            times[key].append(timed(steps, group[key]))
    return {key: 1e3 * statistics.median(taken) for key, taken in times.items()}
