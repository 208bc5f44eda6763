"""Rows that are parts of one array, in memory or in a file, and are converted only when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Row = NDArray[Any]
"""One row, as `s4gen.data.examples` has it: tokens, integers (L,), or numbers, float32 (L, C)."""


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """Rows of any lengths that lie in one array; a slice of them copies none."""

    values: NDArray[Any]
    """(total, ...) maybe memory-mapped, so treat as read-only."""
    starts: NDArray[np.int64]
    """(n,) where each row begins in `values`."""
    lengths: NDArray[np.int64]
    """(n,) how many of the values are the row's."""
    convert: Callable[[Row], Row] | None = None
    """Makes the row that is given out of its part of `values`; None: it is that part."""

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return replace(self, starts=self.starts[index], lengths=self.lengths[index])
        start = self.starts[index]
        row = self.values[start : start + self.lengths[index]]
        return row if self.convert is None else self.convert(row)

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """Return some of the rows, in the given order."""
        return replace(self, starts=self.starts[indices], lengths=self.lengths[indices])


def end_to_end(values: NDArray[Any], lengths: NDArray[np.int64]) -> Rows:
    """Return rows of these lengths (n,) that lie one behind another in `values`."""
    return Rows(values, np.cumsum(lengths) - lengths, lengths)


def equal_rows(values: NDArray[Any], convert: Callable[[Row], Row] | None = None) -> Rows:
    """Return the rows values[0], values[1], .. of an array (n, ...), each through `convert`."""
    n = len(values)
    first: Callable[[Row], Row] = _first if convert is None else lambda row: convert(row[0])
    return Rows(values, np.arange(n), np.ones(n, np.int64), first)


def _first(row: Row) -> Row:
    return row[0]
