"""What differs between training on images and on text; the loop knows nothing else of either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from s4gen.config import Layout, Recipe
from s4gen.data.text import Tokenizer
from s4gen.models.density import DensityModel

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


class Task(ABC):
    """The source of the batches, and how what is learnt from them is measured and shown."""

    layout: Layout
    """What the sequences are."""
    tokenizer: Tokenizer | None = None
    """Of text; it travels in the checkpoint."""
    measures: tuple[str, ...]
    """What the metrics hold of a loss."""
    counted: str
    """What `Measured.n` counts, as checkpoints name it."""

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """What step 0, 1, ... reads: whole sequences int64 (B, L); or tokens and what follows each, int64 (B, L).

        In the second case rows go on from step to step, and the model's state with them.
        """

    @abstractmethod
    def epoch(self, step: int) -> float:
        """How often the data have been read before this step."""

    @abstractmethod
    def measure(self, nats: float) -> Values:
        """A mean training loss in nats per token, as `measures` name it."""

    @abstractmethod
    def evaluate(self, model: DensityModel) -> Measured | None:
        """Of held-out data; None where there are none."""

    @abstractmethod
    def say(self, values: Values) -> str:
        """The values in a few words."""

    @abstractmethod
    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        """Lines of the checkpoint's card: what a step reads, and what was measured."""

    @abstractmethod
    def save_sample(self, sequences: Tensor, path: Path) -> None:
        """Write drawn sequences int64 (n, L) to a file; `path` lacks its ending."""
