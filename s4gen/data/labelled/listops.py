"""ListOps as the Long Range Arena defines it: nested operations on lists of digits, whose value is the class.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]   has the value 5

Nangia, Bowman, "ListOps" (arXiv 1804.06028), with the numbers of Tay et al., "Long Range Arena" (arXiv 2011.04006). A
node is an operation with probability 1/4, unless it lies at the greatest depth, and otherwise a digit. An operation has
2 to `max_args` arguments, and begins and ends with a token, so its length is 2 more than that of its arguments.
Expressions whose length is not within limits are thrown away, and so is every one that was there before. (The text of
the benchmark has parentheses around every argument as well; its readers drop them, and its lengths do not count them.)

Trees are made by thousands, level by level, as arrays of nodes, and no tree is ever a Python object: 100,000
expressions take 15 s of a processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4gen.data.labelled.draws import Draws
from s4gen.data.text import WordTokenizer
from s4gen.errors import UserError

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
"""Minimum, maximum, truncated median (of an even number of values, the mean of both in the middle, rounded down), and
sum modulo 10."""
END = "]"
TOKENIZER = WordTokenizer(["<eos>", "<unk>", *map(str, range(10)), *OPERATORS, END])
"""Its tokens are those of the rows: digits from `DIGIT` on, operators from `OPERATOR` on, and the closing bracket."""
DIGIT, OPERATOR, CLOSE = 2, 12, 16
CLASSES = tuple(map(str, range(10)))

LENGTHS = (500, 2000)
"""The limits of the benchmark; SHORT are those of our small version, whose measured numbers are called "short"."""
SHORT = (50, 300)
COUNTS = (96_000, 2_000, 2_000)
MAX_DEPTH = 10
MAX_ARGS = 10
_TREES = 4096
"""Trees that are begun at a time. The numbers that are drawn depend on it, so it is a part of the definition."""

_PATIENCE = 100
"""How often that many trees may hold nothing new before it is taken for granted that there is nothing left."""

Tokens = NDArray[np.uint8]


@dataclass(frozen=True)
class _Level:
    """The nodes of all trees at one depth, in the order of their parents."""

    tree: NDArray[np.int64]
    """(n,) the tree that each node is in."""
    operator: NDArray[np.int64]
    """(n,) its number in OPERATORS; -1 for a digit."""
    digit: NDArray[np.int64]
    """(n,) the digit; of an operation it means nothing."""
    args: NDArray[np.int64]
    """(n,) how many arguments it has; 0 for a digit."""

    def only(self, nodes: NDArray[np.bool_], number: NDArray[np.int64]) -> _Level:
        """Return some of the nodes; `number` are the new numbers of the trees."""
        return _Level(number[self.tree[nodes]], self.operator[nodes], self.digit[nodes], self.args[nodes])


def expressions(
    lengths: tuple[int, int] = LENGTHS, seed: int = 0, max_depth: int = MAX_DEPTH, max_args: int = MAX_ARGS
) -> Generator[tuple[Tokens, int], None, None]:
    """Yield distinct expressions, without end: tokens (L,) and the value, 0 to 9.

    As in the benchmark, L is greater than lengths[0] and less than lengths[1].

    Raises:
        UserError: among very many trees there is no new one of such a length.
    """
    draws, seen, barren = Draws(seed), set[bytes](), 0
    while True:
        barren += 1
        if barren > _PATIENCE:
            raise UserError(
                f"data.lengths = {list(lengths)}: after {len(seen)} examples, none of {_PATIENCE * _TREES:,} more "
                "expressions is new and of such a length; choose other lengths, or smaller data.counts"
            )
        levels = _grow(draws, max_depth, max_args)
        sizes = _sizes(levels)
        total = sizes[0]
        good = (lengths[0] < total) & (total < lengths[1])
        levels, sizes = _keep(levels, sizes, good)
        if not len(levels):
            continue
        tokens = _write(levels, sizes)
        ends = np.cumsum(sizes[0])
        for value, begin, end in zip(_values(levels).tolist(), (ends - sizes[0]).tolist(), ends.tolist(), strict=True):
            row = tokens[begin:end]
            # Of the tokens a digest is enough to recognise them again, and it is small.
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                barren = 0
                yield row, value


def _grow(draws: Draws, max_depth: int, max_args: int) -> list[_Level]:
    """Draw `_TREES` trees: their nodes at depth 1 (the roots), 2, .. as long as there are any."""
    levels: list[_Level] = []
    tree = np.arange(_TREES)
    for depth in range(1, max_depth + 1):
        n = len(tree)
        digit = draws.array(10, n)
        operator, args = np.full(n, -1), np.zeros(n, np.int64)
        if depth < max_depth:
            inner = np.flatnonzero(draws.array(4, n) == 0)
            operator[inner] = draws.array(len(OPERATORS), len(inner))
            args[inner] = 2 + draws.array(max_args - 1, len(inner))
        levels.append(_Level(tree, operator, digit, args))
        tree = np.repeat(tree, args)
        if not len(tree):
            break
    return levels


def _sizes(levels: list[_Level]) -> list[NDArray[np.int64]]:
    """Return the tokens of every subtree, level by level: 1 for a digit, else 2 and those of its arguments."""
    sizes: list[NDArray[np.int64]] = []
    below = np.zeros(0, np.int64)
    for level in reversed(levels):
        size = np.ones(len(level.args), np.int64)
        inner = np.flatnonzero(level.args)
        if len(inner):
            size[inner] = 2 + np.add.reduceat(below, _firsts(level)[inner])
        sizes.append(size)
        below = size
    return sizes[::-1]


def _firsts(level: _Level) -> NDArray[np.int64]:
    """Return where in the next level the arguments of each node begin; they lie side by side."""
    return np.cumsum(level.args) - level.args


def _keep(
    levels: list[_Level], sizes: list[NDArray[np.int64]], good: NDArray[np.bool_]
) -> tuple[list[_Level], list[NDArray[np.int64]]]:
    """Leave out all nodes of the trees that are not good; the trees that stay are numbered anew."""
    number = np.cumsum(good) - 1
    kept_levels, kept_sizes = [], []
    for level, size in zip(levels, sizes, strict=True):
        nodes = good[level.tree]
        if not nodes.any():
            break
        kept_levels.append(level.only(nodes, number))
        kept_sizes.append(size[nodes])
    return kept_levels, kept_sizes


def _write(levels: list[_Level], sizes: list[NDArray[np.int64]]) -> Tokens:
    """Return the tokens of all trees, one after another."""
    tokens = np.empty(sizes[0].sum(), np.uint8)
    start = np.cumsum(sizes[0]) - sizes[0]
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        inner = level.args > 0
        tokens[start[~inner]] = DIGIT + level.digit[~inner]
        tokens[start[inner]] = OPERATOR + level.operator[inner]
        tokens[start[inner] + size[inner] - 1] = CLOSE
        if depth + 1 < len(levels):
            # An argument begins behind the operator of its parent and all arguments before it.
            before = np.cumsum(sizes[depth + 1]) - sizes[depth + 1]
            first = _firsts(level)[inner]
            start = np.repeat(start[inner] + 1 - before[first], level.args[inner]) + before
    return tokens


def _values(levels: list[_Level]) -> NDArray[np.int64]:
    """Return the value of every tree, int64 (trees,), from the deepest level up."""
    value = np.zeros(0, np.int64)
    for level in reversed(levels):
        below, value = value, level.digit.copy()
        inner = np.flatnonzero(level.args)
        if not len(inner):
            continue
        first, args = _firsts(level)[inner], level.args[inner]
        parent = np.repeat(np.arange(len(inner)), args)
        ordered = below[np.lexsort((below, parent))]  # the arguments of each node in the order of their values
        low, high = ordered[first + (args - 1) // 2], ordered[first + args // 2]
        results = np.stack(
            (
                ordered[first],
                ordered[first + args - 1],
                (low + high) // 2,
                np.add.reduceat(below, first) % 10,
            )
        )
        value[inner] = results[level.operator[inner], np.arange(len(inner))]
    return value
