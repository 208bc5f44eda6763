"""The interface `Task`: everything in which training on images, text and sound differs, and that the loop knows of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s4gen.config import Layout, Recipe
from s4gen.data.text import Tokenizer
from s4gen.models.density import DensityModel
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
    """How many sequences, or tokens of text, were scored."""


@dataclass(frozen=True)
class Batch:
    """The data that one step reads."""

    tokens: Tensor
    """int64 (B, L): whole sequences or, if there is a target, the tokens that are fed."""
    target: Tensor | None = None
    """int64 (B, L): the token that follows each token. Rows and model state then continue from step to step."""
    counted: Tensor | None = None
    """bool (B, L): the tokens whose loss counts; None if all do."""
    label: Tensor | None = None
    """int64 (B,): the classes, for a model that is conditional on them."""

    def parts(self, n: int) -> list[Batch]:
        """Cut the batch into at most n parts whose numbers of rows differ by 1 at most."""
        count = min(n, len(self.tokens))
        columns = [
            [None] * count if x is None else x.tensor_split(count) for x in (self.target, self.counted, self.label)
        ]
        return [Batch(*part) for part in zip(self.tokens.tensor_split(count), *columns, strict=True)]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        rest = (None if x is None else x.to(device) for x in (self.target, self.counted, self.label))
        return Batch(self.tokens.to(device), *rest)


class Task(ABC):
    """The source of the batches of a run, and the measures in which its loss is reported."""

    layout: Layout
    """What the sequences are."""
    rows: int
    """Rows of a batch: the batch size of the recipe, or less if there are fewer sequences."""
    unit: str
    """The plural noun that speed is counted in: images, clips or tokens."""
    tokenizer: Tokenizer | None = None
    """The tokeniser of text, which is saved in the checkpoint."""
    measures: tuple[str, ...]
    """The names of the measures in the metrics. Of the first one, less is better."""
    counted: str
    """The name under which a checkpoint records `Measured.n`."""

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
    def measure(self, nats: float) -> Values:
        """Convert a mean training loss in nats per token to the measures that apply to it."""

    @abstractmethod
    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        """Evaluate on held-out data; return None if there are none.

        All ranks call this and get the same result, which is that of one process.
        """

    @abstractmethod
    def say(self, values: Values) -> str:
        """Return the values in a few words, for progress bar and messages."""

    @abstractmethod
    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        """Return the lines of the checkpoint's card about data and measures."""

    @abstractmethod
    def save_sample(self, sequences: Tensor, path: Path) -> None:
        """Write drawn sequences int64 (n, L) to a file, or to several; `path` has no suffix, which the task adds."""
