"""Measuring predictors: accuracy and cross-entropy of classes, errors of numbers and forecasts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4gen.config import PredictorConfig
from s4gen.data.examples import Examples, Series, inputs_of

Answered = tuple[Tensor, Tensor, Tensor | None]
"""A batch for a predictor: its inputs, the right answers, and the lengths of the rows, as in `Predictor.losses`."""


@dataclass
class Tally:
    """Sums over the examples that were answered so far, from which every measure is made."""

    n: int = 0
    """Examples."""
    loss: float = 0.0
    """The sum of their losses: nats, or mean squared errors of standardised numbers."""
    right: int = 0
    """For classes, the number of examples whose class was the most probable one."""
    absolute: float = 0.0
    """For numbers, the sum of the mean absolute errors, standardised."""
    squares: float = 0.0
    """For numbers, the sum of the mean squared errors in the units of the data."""
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    """For classes, the number of examples by (true class, class answered)."""
    seconds: float = 0.0

    def values(self, config: PredictorConfig) -> dict[str, float]:
        """Return the measures by name; there must be an example."""
        if config.task.kind == "classify":
            accuracy = self.right / self.n
            return {
                "error": 1 - accuracy,
                "accuracy": accuracy,
                "stderr": math.sqrt(accuracy * (1 - accuracy) / self.n),
                "cross_entropy": self.loss / self.n,
            }
        found = {"mse": self.loss / self.n, "mae": self.absolute / self.n}
        return found if config.task.kind == "forecast" else found | {"rmse": math.sqrt(self.squares / self.n)}


MEASURES = {
    "classify": ("error", "accuracy", "stderr", "cross_entropy"),
    "regress": ("mse", "mae", "rmse"),
    "forecast": ("mse", "mae"),
}
"""The names of the measures for each task. mse and mae are of standardised numbers, rmse in the units of the data."""


class Answering(Protocol):
    """A predictor, or something that answers in its place."""

    config: PredictorConfig

    @property
    def device(self) -> torch.device:
        """The device that rows are to be on."""

    def answer(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the answers to whole rows, as `Predictor.answer` does."""


@torch.inference_mode()
def tally(model: Answering, batches: Iterable[Answered]) -> Tally:
    """Let a model in evaluation mode answer all batches, and count."""
    found, began, config = Tally(), time.perf_counter(), model.config
    for inputs, target, lengths in batches:
        inputs, target = inputs.to(model.device), target.to(model.device)
        answer = model.answer(inputs, None if lengths is None else lengths.to(model.device)).double()
        found.n += len(target)
        if config.task.kind == "classify":
            found.loss += float(torch.nn.functional.cross_entropy(answer, target, reduction="sum"))
            best = answer.argmax(-1)
            found.right += int((best == target).sum())
            for pair in zip(target.tolist(), best.tolist(), strict=True):
                found.confusion[pair] = found.confusion.get(pair, 0) + 1
        else:
            difference = answer - target.double()
            found.loss += float(difference.square().mean(-1).sum())
            found.absolute += float(difference.abs().mean(-1).sum())
            std = difference.new_tensor(config.answers.std or (1.0,) * len(config.answers.names))
            found.squares += float((difference.unflatten(-1, (-1, len(std))) * std).square().mean((-1, -2)).sum())
    found.seconds = time.perf_counter() - began
    return found


def example_batches(examples: Examples, config: PredictorConfig, rows: int) -> Iterable[Answered]:
    """Yield all examples in order of length, `rows` at a time."""
    order = np.argsort([len(row) for row in examples.inputs], kind="stable")
    for i in range(0, len(order), rows):
        chosen = order[i : i + rows]
        inputs, lengths = inputs_of([examples.inputs[index] for index in chosen], config.layout, config.reader)
        yield inputs, targets_of(examples.targets[chosen], config), lengths


def targets_of(targets: NDArray[np.generic], config: PredictorConfig) -> Tensor:
    """Return what a model is to answer: classes int64 (n,), or standardised numbers float32 (n, K)."""
    if config.task.kind == "classify":
        return torch.from_numpy(targets.astype(np.int64))
    mean, std = np.array(config.answers.mean), np.array(config.answers.std)
    return torch.from_numpy(((targets.astype(np.float64) - mean) / std).astype(np.float32))


def window_batches(series: Series, starts: NDArray[np.int64], config: PredictorConfig, rows: int) -> Iterable[Answered]:
    """Yield the windows of a series that begin at `starts`, `rows` at a time."""
    cut = WindowCutter(series, config)
    for i in range(0, len(starts), rows):
        yield (*cut(starts[i : i + rows]), None)


class WindowCutter:
    """Cuts windows out of a series: what is read, and what follows."""

    def __init__(self, series: Series, config: PredictorConfig) -> None:
        task = config.task
        self._read = torch.from_numpy(np.concatenate((series.values, series.times), axis=1))
        self._columns = [series.columns.index(name) for name in config.answers.names]
        self._back, self._ahead = torch.arange(task.window), torch.arange(task.window, task.window + task.horizon)

    def __call__(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs r(B, window, C + F) and targets r(B, horizon x K) of windows that begin at int64 (B,)."""
        first = torch.from_numpy(starts)[:, None]
        follows = self._read[first + self._ahead][..., self._columns]
        return self._read[first + self._back], follows.flatten(1)
