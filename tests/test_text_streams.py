"""The order of tokens: none is lost or read twice, between chunks, rows, processes, epochs and restarts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4gen.data.text import TrainStream, one_stream, windows
from s4gen.errors import UserError

START = 999


def corpus(n: int) -> np.ndarray:
    """Token i is i, so that every place can be told from the others."""
    return np.arange(n, dtype=np.uint16)


sizes = st.integers(1, 300)
chunks = st.integers(1, 40)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """n, rows, world and chunk with at least one token for each row."""
    rows, world = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    return draw(st.integers(rows * world, 300)), rows, world, draw(chunks)


@given(layouts())
def test_a_row_goes_on_where_it_stopped_and_round_the_corpus(layout: tuple[int, int, int, int]) -> None:
    n, rows, world, chunk = layout
    for rank in range(world):
        stream = TrainStream(corpus(n), rows, chunk, rank, world)
        x, y = (torch.cat(parts, 1) for parts in zip(*map(stream.batch, range(6)), strict=True))
        assert x.shape == y.shape == (rows, 6 * chunk)
        assert torch.equal(x[:, 1:], y[:, :-1]), "what is read is what was to be predicted before"
        assert torch.equal(x, (y - 1) % n), "and the token before it in the corpus, also at a row's start"


@given(layouts(), st.integers(0, 40))
def test_after_any_number_of_steps_every_token_was_read_equally_often(
    layout: tuple[int, int, int, int], steps: int
) -> None:
    """To within one: no token is lost, and none is read twice before all others are read once."""
    n, rows, world, chunk = layout
    counts: Counter[int] = Counter(dict.fromkeys(range(n), 0))
    for rank in range(world):
        stream = TrainStream(corpus(n), rows, chunk, rank, world)
        for step in range(steps):
            counts.update(stream.batch(step)[1].flatten().tolist())
    read = steps * rows * world * chunk
    assert set(counts.values()) <= {read // n, -(-read // n)}
    assert stream.epoch(steps) == read / n


def test_where_it_divides_evenly_an_epoch_is_every_token_once_and_a_row_its_own_part() -> None:
    stream = TrainStream(corpus(60), rows=3, chunk=5)
    assert stream.steps(1) == 4
    for epoch in range(3):
        y = torch.cat([stream.batch(4 * epoch + step)[1] for step in range(4)], 1)
        assert sorted(y.flatten().tolist()) == list(range(60))
        parts = [list(range(20 * i, 20 * i + 20)) for i in range(3)]
        assert y.tolist() == parts[epoch % 3 :] + parts[: epoch % 3]


@given(layouts(), st.integers(0, 10**12))
def test_processes_together_read_what_one_would(layout: tuple[int, int, int, int], step: int) -> None:
    n, rows, world, chunk = layout
    alone = TrainStream(corpus(n), rows * world, chunk).batch(step)
    together = [TrainStream(corpus(n), rows, chunk, rank, world).batch(step) for rank in range(world)]
    for one, many in zip(alone, zip(*together, strict=True), strict=True):
        assert torch.equal(one, torch.cat(many))


def test_a_step_number_is_all_there_is_to_resume() -> None:
    stream = TrainStream(corpus(101), 3, 7)
    first = [stream.batch(step) for step in range(30)]
    for step in (29, 11, 0):
        again = TrainStream(corpus(101), 3, 7).batch(step)
        assert all(torch.equal(a, b) for a, b in zip(again, first[step], strict=True))


def test_batches_are_int64_of_their_own() -> None:
    tokens = np.array([65_535, 1, 2, 3], dtype=np.uint16)
    x, y = TrainStream(tokens, 2, 2).batch(0)
    assert (x.dtype, y.dtype) == (torch.int64, torch.int64)
    assert x.tolist() == [[3, 65_535], [1, 2]]
    assert y.tolist() == [[65_535, 1], [2, 3]]
    y.view(-1)[0] = 7
    assert tokens[0] == 65_535
    assert x[0, 1] == 65_535


def test_steps_reach_an_epoch() -> None:
    stream = TrainStream(corpus(100), 3, 7)
    assert stream.epoch(stream.steps(1)) >= 1 > stream.epoch(stream.steps(1) - 1)
    assert stream.epoch(stream.steps(2.5)) >= 2.5 > stream.epoch(stream.steps(2.5) - 1)


def test_fewer_tokens_than_rows_is_one_sentence() -> None:
    TrainStream(corpus(8), 4, 16, 1, 2)
    with pytest.raises(UserError, match=r"^the text has 7 tokens, fewer than the 8 rows of a batch: expected a longer"):
        TrainStream(corpus(7), 4, 16, 1, 2)


@given(sizes, st.integers(1, 400))
def test_one_stream_predicts_every_token_once_in_order(n: int, chunk: int) -> None:
    parts = list(one_stream(corpus(n), START, chunk))
    x, y = (torch.cat(side, 1) for side in zip(*parts, strict=True))
    assert y.tolist() == [list(range(n))]
    assert x.tolist() == [[START, *range(n - 1)]]
    assert [part.shape for part, _ in parts[:-1]] == [(1, chunk)] * (len(parts) - 1)
    assert {x.dtype, y.dtype} == {torch.int64}


@given(sizes, chunks, st.integers(1, 9))
def test_windows_predict_every_token_once_from_their_own_window(n: int, length: int, rows: int) -> None:
    parts = list(windows(corpus(n), START, length, rows))
    assert all(x.shape == y.shape and len(x) <= rows for x, y in parts)
    xs, ys = ([row for part in side for row in part.tolist()] for side in zip(*parts, strict=True))
    assert ys == [list(range(begin, min(begin + length, n))) for begin in range(0, n, length)]
    assert xs == [[y[0] - 1 if y[0] else START, *y[:-1]] for y in ys]
    assert all(len(y) == length for y in ys[:-1])
    assert all(x.shape[1] == length for x, _ in parts[:-1])
