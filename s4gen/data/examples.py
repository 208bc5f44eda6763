"""Data for predictors: rows with the answer to each, or one long series from which windows are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config.layouts import AudioLayout, ImageLayout, InputLayout
from s4gen.config.names import SPLITS
from s4gen.data.audio.format import format_of
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Row = NDArray[Any]
"""One row. Of images, text and sound: tokens, integers (L,), as a density model reads. Of series: float32 (L, C)."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One split: rows of any lengths, and the answer that belongs to each."""

    inputs: Sequence[Row]
    """(n,) rows, each of at least one position; they may be read from a file only when they are asked for."""
    targets: NDArray[Any]
    """int64 (n,) numbers of classes, or float32 (n, K) numbers as they are, not standardised."""

    def __len__(self) -> int:
        return len(self.targets)

    def spread(self, n: int) -> Examples:
        """Return n examples at even distances, or all if there are fewer: a set may be in the order of its classes."""
        if n >= len(self):
            return self
        chosen = spread_over(len(self), n)
        return Examples([self.inputs[index] for index in chosen], self.targets[chosen])


@dataclass(frozen=True, eq=False)
class ExampleSplits:
    """All that is known of a set of examples."""

    train: Examples
    validation: Examples
    """May be empty: then training makes no evaluation."""
    test: Examples
    layout: InputLayout
    """The kind and size of the rows. Its `classes` are empty: they are what density models are given, not an answer."""
    answers: tuple[str, ...]
    """The names of the classes or, for regression, of the K numbers."""
    tokenizer: Tokenizer | None = None
    """For text, the tokeniser that made the tokens. The layout's `vocab` and `start` are its own."""
    notes: tuple[str, ...] = ()
    """Lines for the user on how the data were read, such as how many rows were left out."""

    def split(self, name: str) -> Examples:
        """Return the split train, validation or test.

        Raises:
            UserError: it is empty.
        """
        found: Examples = getattr(self, name)
        if not len(found):
            raise UserError(f"the {name} split has no examples; choose another split")
        return found


@dataclass(frozen=True, eq=False)
class Series:
    """A multivariate series at regular times, parted into train, validation and test."""

    values: NDArray[np.float32]
    """(n, C), standardised: each column has mean 0 and variance 1 over the training part."""
    times: NDArray[np.float32]
    """(n, F) features of the time of each row, from -0.5 to 0.5; F may be 0."""
    mean: NDArray[np.float64]
    """(C,) what was subtracted from each column."""
    std: NDArray[np.float64]
    """(C,) what each column was then divided by."""
    columns: tuple[str, ...]
    """Names of the C columns."""
    time_names: tuple[str, ...]
    """Names of the F features."""
    borders: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """The first row, and the row behind the last, of train, validation and test. What is forecast lies in a part; what
    is read may lie before its first row, as in the protocol of Informer."""
    notes: tuple[str, ...] = ()
    """Lines for the user on how the data were read, such as how many rows were left out."""


def spread_over(n: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the numbers 0 to n - 1, at even distances."""
    return np.arange(n) if most >= n else np.arange(most) * n // most


def inputs_of(rows: Sequence[Row], layout: InputLayout, reader: str) -> tuple[Tensor, Tensor | None]:
    """Put rows side by side as a predictor reads them, with zeros behind their ends.

    Returns:
        Values r(B, L, C), or tokens int64 (B, L) if the reader is "tokens"; and the lengths int64 (B,), or None if all
        rows have one length.
    """
    import torch

    found = [values_of(row, layout) if reader != "tokens" else row for row in rows]
    lengths = [len(row) for row in found]
    kind = np.int64 if reader == "tokens" else np.float32
    padded = np.zeros((len(found), max(lengths), *found[0].shape[1:]), kind)
    for place, row in zip(padded, found, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded), None if min(lengths) == max(lengths) else torch.tensor(lengths)


def values_of(row: Row, layout: InputLayout) -> NDArray[np.float32]:
    """Return what stands at each position of a row as numbers, float32 (L, C).

    A pixel's channels are scaled from -1 to 1, the codes of sound become samples, and series are numbers already.
    """
    if isinstance(layout, ImageLayout):
        scaled = row.astype(np.float32) * np.float32(2 / (layout.levels - 1)) - 1
        return scaled.reshape(-1, layout.channels)
    if isinstance(layout, AudioLayout):
        return format_of(layout).quantiser.decode(row)[:, None]
    return row


def windows(series: Series, split: str, window: int, horizon: int) -> NDArray[np.int64]:
    """Return where the windows of a split begin, int64 (n,). Each reads `window` rows; `horizon` rows follow.

    All rows that follow lie in the split. Those that are read do so for train; for the other splits they may lie before
    it, so that every row of the split is forecast, as in Informer's code (arXiv 2012.07436).

    Raises:
        UserError: the split is shorter than one window.
    """
    part = SPLITS.index(split)
    begin, end = series.borders[part]
    first = begin if part == 0 else max(0, begin - window)
    last = end - window - horizon
    if last < first:
        raise UserError(
            f"the {split} part has {end - begin:,} rows, too few for task.window = {window} and task.horizon = "
            f"{horizon}: choose smaller ones"
        )
    return np.arange(first, last + 1, dtype=np.int64)
