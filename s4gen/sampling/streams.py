"""Predictors on a live stream, in constant memory and in a time for each position that does not grow.

What has come already is read in parallel, from the state before it; what is too short for that takes steps of the
recurrence. So a reader that falls behind catches up, and one that does not answers after every position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.models.kept_kernels import keep_kernels
from s4gen.models.predictor import Predictor, PredictorState
from s4gen.sampling.steps import twins


@dataclass
class Latency:
    """How long reading took, in seconds."""

    positions: int = 0
    total: float = 0.0
    longest: float = 0.0
    """The longest time of one step, or of one piece that was read in parallel."""

    def add(self, seconds: float, positions: int) -> None:
        """Count a step, or a piece of so many positions."""
        self.positions += positions
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """The mean time of a position; 0 before the first."""
        return self.total / max(1, self.positions)


PIECES = tuple(1 << k for k in range(10, 1, -1))
"""The numbers of positions that are read in parallel, the largest first: 1024, 512, .. 4. Fewer are stepped, because on
one core a short piece takes as long as three steps. The sizes are few, because each has kernels of its own, which are
kept."""


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
    """One row that a predictor reads as it comes.

    The answer after any position is that of `Predictor.answer` for the row up to there, but for rounding.
    """

    def __init__(self, model: Predictor) -> None:
        """Begin at the start of a row.

        Raises:
            ValueError: the model reads in both directions.
        """
        self._parallel, self._stepper = twins(model)
        keep_kernels(self._parallel)
        self._state: PredictorState = self._stepper.initial_state(1)
        self._answer: Callable[[], Tensor] | None = None
        self.latency = Latency()

    @property
    def position(self) -> int:
        """How many positions were read."""
        return self.latency.positions

    @torch.inference_mode()
    def read(self, block: Tensor) -> None:
        """Read positions that follow each other: values r(n, C), or tokens int64 (n,); n may be 0."""
        at = 0
        while at < len(block):
            n = next((piece for piece in PIECES if at + piece <= len(block)), 1)
            began = time.perf_counter()
            self._read_piece(block[at : at + n])
            self.latency.add(time.perf_counter() - began, n)
            at += n

    def _read_piece(self, piece: Tensor) -> None:
        """Take a step, or read several positions in parallel."""
        last = piece[-1:]
        if len(piece) == 1:
            features, self._state = self._stepper.advance(last, self._state)
            self._answer = lambda: self._stepper.answer_after(features, last)[0]
            return
        answers, self._state = self._parallel(piece[None], self._state)
        self._answer = lambda: answers[0, -1]

    @torch.inference_mode()
    def answer(self) -> Tensor:
        """Return the answer r(out) after the last position.

        Raises:
            ValueError: nothing was read.
        """
        if self._answer is None:
            raise ValueError("nothing was read yet, so there is no answer")
        return self._answer()

    def answers(self, blocks: Iterable[Tensor], every: int) -> Iterator[Tensor]:
        """Read blocks (n, ...) of positions one after another, and yield the answer after every `every` positions."""
        for block in blocks:
            while len(block):
                head, block = block.tensor_split([every - self.position % every])
                self.read(head)
                if self.position % every == 0:
                    yield self.answer()
