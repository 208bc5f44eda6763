"""The interface `Task`: all that the loop knows of what is trained, and in which trainings differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from s4gen.config import DensityConfig, Layout, Recipe, TrainConfig
from s4gen.data.text import Tokenizer
from s4gen.models.build import AnyConfig
from s4gen.models.density import DensityModel
from s4gen.train.batches import Batch
from s4gen.train.ranks import Ranks

Sampler = Callable[[DensityModel, int, int], Tensor]
"""(model, number of sequences, seed) -> int64 (n, L). It is given, because training must not import sampling."""

Values = dict[str, float]
"""Measures by name, such as {"bits_per_dim": 3.2, "stderr": 0.01}."""


@dataclass(frozen=True)
class Measured:
    """The result of one evaluation."""

    values: Values
    """The measures, by the names in `Task.measures`."""
    n: int
    """How many sequences, tokens of text, or examples were scored."""


class Task(ABC):
    """The source of the batches of a run, and the measures in which its loss is reported."""

    rows: int
    """Rows of a batch: the batch size of the recipe, or less if there are fewer sequences."""
    unit: str
    """The plural noun that speed is counted in: images, clips, tokens, examples or windows."""
    tokenizer: Tokenizer | None = None
    """The tokeniser of text, which is saved in the checkpoint."""
    noun: str
    """The noun for a model of this task in its card, such as "density model"."""
    measures: tuple[str, ...]
    """The names of the measures in the metrics. Of the first one, less is better."""
    curve: str
    """The measure of the learning curve, which training batches and evaluations both have."""
    counted: str
    """The name under which a checkpoint records `Measured.n`."""

    @abstractmethod
    def config(self, recipe: Recipe) -> AnyConfig:
        """Return the configuration of the model that the recipe trains on these data."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Return the batch of step 0, 1, ...; it depends on seed and step alone, so that runs can be resumed."""

    @abstractmethod
    def example(self, rows: int) -> Batch:
        """Return a batch of `rows` rows of the greatest length that training reads; any values will do."""

    @abstractmethod
    def epoch(self, step: int) -> float:
        """Return how many times the data have been read before this step."""

    @abstractmethod
    def measure(self, loss: float) -> Values:
        """Convert a mean training loss to the measures that apply to it."""

    @abstractmethod
    def evaluate(self, model: Any, ranks: Ranks) -> Measured | None:
        """Evaluate on held-out data; return None if there are none.

        All ranks call this and get the same result, which is that of one process.
        """

    @abstractmethod
    def say(self, values: Values) -> str:
        """Return the values in a few words, for progress bar and messages."""

    @abstractmethod
    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        """Return the lines of the checkpoint's card about data and measures."""

    def show(self, model: Any, sampler: Sampler, train: TrainConfig, path: Path) -> None:
        """Write what a model draws after an evaluation; `path` has no suffix, which the task adds.

        A predictor draws nothing, so here nothing is written.
        """
        return None


class DensityTask(Task):
    """The part of all tasks that train a density model."""

    layout: Layout
    """The kind and size of the sequences."""
    noun = "density model"

    def config(self, recipe: Recipe) -> DensityConfig:
        return DensityConfig(self.layout, recipe.model, recipe.ssm)

    def show(self, model: DensityModel, sampler: Sampler, train: TrainConfig, path: Path) -> None:
        if train.n_samples:
            self.save_sample(sampler(model, train.n_samples, train.seed), path)

    @abstractmethod
    def save_sample(self, sequences: Tensor, path: Path) -> None:
        """Write drawn sequences int64 (n, L) to a file, or to several; `path` has no suffix, which the task adds."""
