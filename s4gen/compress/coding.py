"""Tokens to bits and back: rows side by side through an engine, each with a range coder of its own.

The coder is that of `constriction` (range coding, G. N. N. Martin 1979; 24 bits of probability, words of 32 bits). A
row takes what the model says of its next token, codes that token, and feeds it to the model; a decoder does the same
with the token that it decodes. Behind a token may come a number below a bound that the token sets, coded evenly: what a
recording holds beside the code of a sample.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from constriction import stream
from numpy.typing import NDArray
from torch import Tensor

from s4gen.compress.container import BLOCK, Block
from s4gen.compress.frequencies import frequencies
from s4gen.models.states import chosen_rows, padded_rows
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine

Whole = NDArray[np.int64]
Frequencies = NDArray[np.float64]

SHARES = stream.model.Categorical(perfect=False)
"""Intervals in proportion to frequencies. Not the "perfect" ones: these are found by one multiplication for each token,
which IEEE 754 defines exactly."""
_evenly = functools.cache(stream.model.Uniform)
"""Equal intervals for the numbers below a bound."""


class DifferentError(Exception):
    """Raised where decoded values are not those that were coded: the predictions have come out otherwise."""


class Row(Protocol):
    """One of the sequences that are coded or decoded side by side."""

    @property
    def length(self) -> int:
        """How many tokens it has."""
        ...

    def step(self, frequencies: Frequencies) -> int:
        """Code or decode the next token by these frequencies (V,), and return it."""
        ...


class RowEncoder:
    """A row that is coded."""

    def __init__(self, tokens: Whole, fine: Whole | None = None, widths: Whole | None = None) -> None:
        """Take tokens (L,); and where tokens have `widths` (V,), the numbers (L,) below the width of each token."""
        self.blocks: list[Block] = []
        """The blocks that are complete."""
        self._tokens, self._fine, self._widths, self._at = tokens, fine, widths, 0
        self._coder = stream.queue.RangeEncoder()

    @property
    def length(self) -> int:
        return len(self._tokens)

    def step(self, frequencies: Frequencies) -> int:
        token = int(self._tokens[self._at])
        self._coder.encode(np.array([token], dtype=np.int32), SHARES, frequencies[None])
        if self._fine is not None and self._widths is not None and (width := int(self._widths[token])) > 1:
            self._coder.encode(int(self._fine[self._at]), _evenly(width))
        self._at += 1
        if self._at % BLOCK == 0 or self._at == self.length:
            self._close()
        return token

    def _close(self) -> None:
        first = len(self.blocks) * BLOCK
        fine = None if self._fine is None else self._fine[first : self._at]
        coded = self._coder.get_compressed().astype("<u4").tobytes()
        self.blocks.append(Block(coded, checksum(self._tokens[first : self._at], fine)))
        self._coder = stream.queue.RangeEncoder()


class RowDecoder:
    """A row that is decoded."""

    def __init__(self, length: int, blocks: Sequence[Block], widths: Whole | None = None) -> None:
        """Take what `RowEncoder` made of `length` tokens, and the same widths."""
        self.length = length
        self.tokens = np.zeros(length, dtype=np.int64)
        """The tokens, as far as they are decoded."""
        self.fine = None if widths is None else np.zeros(length, dtype=np.int64)
        """The numbers behind them, where tokens have widths."""
        self._blocks, self._widths, self._at = blocks, widths, 0
        self._coder: Any = None

    def step(self, frequencies: Frequencies) -> int:
        """Decode the next token; see `Row`.

        Raises:
            DifferentError: the block that ends here is not what was coded.
        """
        if self._at % BLOCK == 0:
            self._coder = stream.queue.RangeDecoder(np.frombuffer(self._blocks[self._at // BLOCK].coded, dtype="<u4"))
        try:
            token = int(self._coder.decode(SHARES, frequencies[None])[0])
            self.tokens[self._at] = token
            if self.fine is not None and self._widths is not None and (width := int(self._widths[token])) > 1:
                self.fine[self._at] = self._coder.decode(_evenly(width))
        except (AssertionError, ValueError) as error:  # of constriction, for bits that no encoder writes
            raise DifferentError from error
        self._at += 1
        if self._at % BLOCK == 0 or self._at == self.length:
            self._check()
        return token

    def _check(self) -> None:
        number = (self._at - 1) // BLOCK
        part = slice(number * BLOCK, self._at)
        if checksum(self.tokens[part], None if self.fine is None else self.fine[part]) != self._blocks[number].checksum:
            raise DifferentError


def checksum(tokens: Whole, fine: Whole | None) -> int:
    """Return the CRC-32 of the values of a block: tokens as little-endian numbers of 4 bytes, and then `fine` so."""
    found = zlib.crc32(tokens.astype("<u4").tobytes())
    return found if fine is None else zlib.crc32(fine.astype("<u4").tobytes(), found)


@torch.inference_mode()
def walk(
    recurrent: RecurrentModel,
    engine: Engine,
    rows: Sequence[Row],
    labels: Tensor | None,
    update: Callable[[int], object],
) -> None:
    """Step all rows, each to its end, side by side from the start of a sequence.

    Rows that have ended leave the engine as soon as they are as many as those that go on. What is computed for a row
    does not depend on which rows are beside it: that is what every engine promises.

    Args:
        recurrent: the converted model.
        engine: one of its engines, without filters.
        rows: at least one; the longest first.
        labels: the classes of the rows int64 (n,), of a model that is conditional on them.
        update: is called with the number of tokens after each step.
    """
    order = padded_rows(len(rows), engine.row_multiple)
    session = engine.begin(recurrent.initial_state(len(order), None if labels is None else labels[order]))
    token = torch.full((len(order),), recurrent.bos)
    there, lengths = len(rows), [row.length for row in rows]
    for position in range(lengths[0]):
        logits = session.feed(token)
        live = sum(length > position for length in lengths[:there])
        shares = frequencies(logits[:live].numpy())
        fed = [rows[i].step(shares[i]) for i in range(live)]
        update(live)
        token = torch.tensor(fed + [0] * (there - live))  # rows that have ended are fed anything
        left = sum(length > position + 1 for length in lengths[:live])
        if 0 < 2 * left <= there:
            order, there = padded_rows(left, engine.row_multiple), left
            session = engine.begin(chosen_rows(session.state(), order))
        token = token[order]


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the numbers of sequences that are stepped together, at most `size` in each: those of similar lengths, the
    longest first."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    return [order[first : first + size] for first in range(0, len(order), size)]
