"""Dealing rows out to shards, so that all shards together compute exactly what one run computes.

A run takes its rows in batches. Where there are at least as many batches as shards, every shard gets whole batches: the
very ones of the single run, so that nothing can be rounded in another way. Where there are fewer, batches are cut.
That is exact, too, wherever a row does not depend on the rows beside it, as on a CPU (`models.states.row_multiple`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from s4gen.errors import UserError


class Shard(NamedTuple):
    """Part `number`, counted from 0, of a run in `of` parts."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Shard(0, 1)
"""A run that is not shared out."""
_GROUP = 4
"""PyTorch's products treat so many rows at a time; small ones round a row by its place among these."""
MOST_SHARDS = 10**6
"""The largest number of shards; parts are listed one by one when they are merged."""


class Piece(NamedTuple):
    """Rows that are computed together."""

    batch: range
    """The batch of the single run that they are in."""
    own: range
    """The rows themselves, all of the batch or some of it."""

    @property
    def extra(self) -> int:
        """How many rows before its own are computed with them, and dropped, so that groups of four stay together."""
        return (self.own.start - self.batch.start) % _GROUP

    @property
    def computed(self) -> range:
        """The rows that are computed: `extra` ones, and its own."""
        return range(self.own.start - self.extra, self.own.stop)

    @property
    def within(self) -> range:
        """Where the rows that are computed stand in their batch."""
        return range(self.computed.start - self.batch.start, self.computed.stop - self.batch.start)


class Batches(Sequence[range]):
    """Rows 0 .. n - 1 in batches of `size`, of which the last may be smaller. They take no memory, however many.

    With `last_alone` the last row is a batch of its own, as one must be that is of another length than the others.
    """

    def __init__(self, n: int, size: int, last_alone: bool = False) -> None:
        self.n, self.size = n, size
        self._alike = n - last_alone  # rows before the last one, if that is alone

    def __len__(self) -> int:
        return -(-self._alike // self.size) + (self.n - self._alike)

    @overload
    def __getitem__(self, index: int) -> range: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[range]: ...
    def __getitem__(self, index: int | slice) -> range | Sequence[range]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        if number * self.size >= self._alike:
            return range(self._alike, self.n)
        return range(number * self.size, min((number + 1) * self.size, self._alike))


def even_batches(n: int, most: int) -> Batches:
    """Return batches of equal size, as few as can be of at most `most` rows; only the last may be smaller.

    So no batch is nearly empty, and a compiled engine compiles for one size only.

    Raises:
        UserError: `n` or `most` is less than 1.
    """
    if n < 1 or most < 1:
        raise UserError(f"asked for {n} sequences in batches of {most}; both must be at least 1")
    return Batches(n, -(-n // -(-n // most)))


def parse_shard(text: str) -> Shard:
    """Read `i/n`, such as 0/3, 1/3 and 2/3 for the three parts of a run.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not found:
        raise ValueError(f"got {text!r}, expected i/n, such as 0/3, 1/3 and 2/3 for the parts of a run in three")
    number, of = int(found[1]), int(found[2])
    if not 1 <= of <= MOST_SHARDS:
        raise ValueError(f"got {text}, expected 1 to {MOST_SHARDS:,} parts behind the stroke")
    if number >= of:
        raise ValueError(f"got {text}, expected 0/{of} to {of - 1}/{of}: parts are counted from 0")
    return Shard(number, of)


def own_rows(batches: Sequence[range], shard: Shard) -> range:
    """Return the rows of a shard; `batches` hold rows 0, 1, ... in order. There may be none."""
    if not batches:
        return range(0)
    n, count = batches[-1].stop, len(batches)
    if count < shard.of:
        return range(n * shard.number // shard.of, n * (shard.number + 1) // shard.of)
    first, last = (count * k // shard.of for k in (shard.number, shard.number + 1))
    return range(batches[first].start, batches[last - 1].stop)


def pieces(batches: Sequence[range], shard: Shard = WHOLE) -> Iterator[Piece]:
    """Yield the rows of a shard in the batches in which they are computed, in order."""
    rows = own_rows(batches, shard)
    count = len(batches)
    # Where batches are cut there are fewer of them than shards, so looking at each is cheap.
    chosen = range(count) if count < shard.of else range(count * shard.number // shard.of, count)
    for index in chosen:
        batch = batches[index]
        if batch.start >= rows.stop:
            return
        own = range(max(batch.start, rows.start), min(batch.stop, rows.stop))
        if own:
            yield Piece(batch, own)
