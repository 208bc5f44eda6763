"""Predictors on a live stream: each position is one step of the recurrence, in constant time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.models.predictor import Predictor
from s4gen.sampling.steps import twins


@dataclass
class Latency:
    """How long steps took, in seconds."""

    steps: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """The mean time of a step; 0 before the first."""
        return self.total / max(1, self.steps)


class Stepped:
    """A predictor that answers whole rows step by step, with the methods that `evaluate.predictions.tally` calls."""

    def __init__(self, model: Predictor) -> None:
        """Convert the model.

        Raises:
            ValueError: it reads in both directions.
        """
        _, self._stepper = twins(model)
        self._stepper.initial_state(1)
        self.config, self.device = model.config, model.device

    @torch.inference_mode()
    def answer(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return what `Predictor.answer` does, but for rounding."""
        state, answer = self._stepper.initial_state(len(inputs)), None
        for t, position in enumerate(inputs.unbind(1)):
            found, state = self._stepper.step(position, state)
            answer = found if answer is None or lengths is None else torch.where((t < lengths)[:, None], found, answer)
        assert answer is not None
        return answer


class Stream:
    """One row that a predictor reads position by position.

    The answer after any position is that of `Predictor.answer` for the row up to there, but for rounding.
    """

    def __init__(self, model: Predictor) -> None:
        """Begin at the start of a row.

        Raises:
            ValueError: the model reads in both directions.
        """
        _, self._stepper = twins(model)
        self._state = self._stepper.initial_state(1)
        self._features: Tensor | None = None
        self._last: Tensor | None = None
        self.latency = Latency()

    @property
    def position(self) -> int:
        """How many positions were read."""
        return self.latency.steps

    @torch.inference_mode()
    def feed(self, position: Tensor) -> None:
        """Read one position: values r(C), or one token, int64 ()."""
        began = time.perf_counter()
        self._last = position[None]
        self._features, self._state = self._stepper.advance(self._last, self._state)
        self.latency.add(time.perf_counter() - began)

    @torch.inference_mode()
    def answer(self) -> Tensor:
        """Return the answer r(out) after the last position.

        Raises:
            ValueError: nothing was read.
        """
        if self._features is None or self._last is None:
            raise ValueError("nothing was read yet, so there is no answer")
        return self._stepper.answer_after(self._features, self._last)[0]

    def answers(self, positions: Iterable[Tensor], every: int) -> Iterator[Tensor]:
        """Read all positions, and yield the answer after every `every` of them."""
        for position in positions:
            self.feed(position)
            if self.position % every == 0:
                yield self.answer()
