"""What differs between training on images, text and sound; the loop knows nothing else of them."""

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
"""(model, number of sequences, seed) -> int64 (n, L). Handed in, because training does not depend on sampling."""

Values = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """A periodic evaluation."""

    values: Values
    """For the metrics, by the names in `Task.measures`."""
    n: int
    """Sequences, or tokens, that were scored."""


@dataclass(frozen=True)
class Batch:
    """What one step reads."""

    tokens: Tensor
    """int64 (B, L): whole sequences; or, with a target, what is fed."""
    target: Tensor | None = None
    """int64 (B, L), what follows each token: rows go on from step to step, and the model's state with them."""
    counted: Tensor | None = None
    """bool (B, L): the tokens whose loss counts; None: all."""
    label: Tensor | None = None
    """int64 (B,): classes, of a model that is conditional on them."""

    def parts(self, n: int) -> list[Batch]:
        """The same in at most n parts of equally many rows."""
        count = min(n, len(self.tokens))
        columns = [
            [None] * count if x is None else x.tensor_split(count) for x in (self.target, self.counted, self.label)
        ]
        return [Batch(*part) for part in zip(self.tokens.tensor_split(count), *columns, strict=True)]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        rest = (None if x is None else x.to(device) for x in (self.target, self.counted, self.label))
        return Batch(self.tokens.to(device), *rest)


class Task(ABC):
    """The source of the batches, and how what is learnt from them is measured and shown."""

    layout: Layout
    """What the sequences are."""
    rows: int
    """Sequences in a batch, or rows of text; the batch size of the recipe, but where there are fewer of them."""
    unit: str
    """What is counted in the speed of training, in the plural."""
    tokenizer: Tokenizer | None = None
    """Of text; it travels in the checkpoint."""
    measures: tuple[str, ...]
    """What the metrics hold of a loss."""
    counted: str
    """What `Measured.n` counts, as checkpoints name it."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """What step 0, 1, ... reads."""

    @abstractmethod
    def example(self, rows: int) -> Batch:
        """A batch of so many rows, each as long as the longest that training reads; its values do not matter."""

    @abstractmethod
    def epoch(self, step: int) -> float:
        """How often the data have been read before this step."""

    @abstractmethod
    def measure(self, nats: float) -> Values:
        """A mean training loss in nats per token, as `measures` name it."""

    @abstractmethod
    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        """Of held-out data; None where there are none. All ranks call this and get the same, that of one process."""

    @abstractmethod
    def say(self, values: Values) -> str:
        """The values in a few words."""

    @abstractmethod
    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        """Lines of the checkpoint's card: what a step reads, and what was measured."""

    @abstractmethod
    def save_sample(self, sequences: Tensor, path: Path) -> None:
        """Write drawn sequences int64 (n, L) to a file, or a folder; `path` lacks its ending."""
