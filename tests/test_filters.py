"""The theorems of the filters on logits, and of the draw."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from s4gen.config.filters import FilterSettings
from s4gen.errors import UserError
from s4gen.sampling.filters import Filters, apply_temperature, keep_min_p, keep_top_k, keep_top_p
from s4gen.sampling.randomness import draw, uniforms

ROUNDING = 1e-12  # float64 sums of at most 12 probabilities

# Half of the rows hold small whole numbers, so that ties are common.
LOGITS = st.one_of(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.floats(-30, 30)),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.integers(-2, 2).map(float)),
).map(torch.from_numpy)
FILTERS = st.builds(
    Filters,
    temperature=st.one_of(st.just(0.0), st.floats(1e-3, 100)),
    top_k=st.integers(0, 14),
    top_p=st.floats(1e-6, 1),
    min_p=st.floats(0, 1),
)


def kept(logits: Tensor) -> Tensor:
    return logits > -math.inf


@given(LOGITS, FILTERS)
def test_every_combination_keeps_a_token_and_sums_to_one(logits: Tensor, filters: Filters) -> None:
    probabilities = filters(logits).softmax(dim=-1)
    assert torch.allclose(probabilities.sum(dim=-1), torch.ones(len(logits), dtype=torch.float64), atol=ROUNDING)
    assert kept(filters(logits)).any(dim=-1).all()


@given(LOGITS, FILTERS)
def test_no_removed_token_is_more_probable_than_a_kept_one(logits: Tensor, filters: Filters) -> None:
    keeps = kept(filters(logits))
    least_kept = logits.masked_fill(~keeps, math.inf).amin(dim=-1)
    most_removed = logits.masked_fill(keeps, -math.inf).amax(dim=-1)
    # Dividing by a large temperature may round two different logits to a tie: hence the tiny allowance.
    assert (most_removed <= least_kept + 1e-9).all()


@given(LOGITS, st.integers(0, 14))
def test_top_k_keeps_exactly_k_even_with_ties(logits: Tensor, k: int) -> None:
    vocab = logits.shape[-1]
    assert (kept(keep_top_k(logits, k)).sum(dim=-1) == (min(k, vocab) or vocab)).all()


def test_ties_are_broken_towards_the_lower_token() -> None:
    """A row long enough for a sort that is not stable to shuffle it."""
    level = torch.zeros(2, 300)
    assert kept(keep_top_k(level, 7))[:, :7].all()
    assert kept(keep_top_p(level, 0.1))[:, :30].all()


@given(LOGITS, st.floats(1e-6, 1))
def test_top_p_keeps_the_smallest_set_of_that_mass(logits: Tensor, p: float) -> None:
    probabilities = logits.softmax(dim=-1)
    keeps = kept(keep_top_p(logits, p))
    mass = probabilities.masked_fill(~keeps, 0).sum(dim=-1)
    assert (mass >= p - ROUNDING).all()
    least_kept = probabilities.masked_fill(~keeps, 2).amin(dim=-1)
    one_fewer = mass - least_kept
    assert ((one_fewer < p + ROUNDING) | (keeps.sum(dim=-1) == 1)).all()
    if p == 1:
        assert keeps.all()


@given(LOGITS, st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_a_larger_top_p_keeps_at_least_as_many(logits: Tensor, p: float, q: float) -> None:
    fewer, more = (kept(keep_top_p(logits, r)) for r in sorted((p, q)))
    assert not (fewer & ~more).any()


@given(LOGITS, st.floats(0, 1))
def test_min_p_keeps_what_is_that_near_to_the_most_probable(logits: Tensor, p: float) -> None:
    probabilities = logits.softmax(dim=-1)
    ratio = probabilities / probabilities.amax(dim=-1, keepdim=True)
    keeps = kept(keep_min_p(logits, p))
    assert (ratio[keeps] >= p * (1 - 1e-9)).all()
    assert (ratio[~keeps] < p * (1 + 1e-9)).all()


@given(LOGITS, st.floats(1e-2, 100))
def test_temperature_is_the_power_of_the_probabilities(logits: Tensor, temperature: float) -> None:
    power = (logits.log_softmax(dim=-1) / temperature).softmax(dim=-1)
    assert torch.allclose(apply_temperature(logits, temperature).softmax(dim=-1), power, rtol=1e-9, atol=1e-300)


def test_temperature_zero_is_the_limit() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, -1.0, 5.0]])
    assert kept(apply_temperature(logits, 0.0)).tolist() == [[False, True, False], [True, False, False]]
    tiny = apply_temperature(logits.double(), 1e-300).softmax(dim=-1)
    assert tiny.tolist() == [[0, 1, 0], [0.5, 0, 0.5]]


def test_filters_apply_in_the_documented_order() -> None:
    """Each pair of settings gives another set in the other order."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    # top-k 3 first renormalises to 0.44, 0.33, 0.22: two tokens reach 0.75. On the whole row it takes three.
    assert kept(Filters(top_k=3, top_p=0.75)(logits)).sum() == 2
    # At temperature 2 the row flattens to 0.33, 0.28, 0.23, 0.16: three tokens reach 0.7. Without it, two.
    assert kept(Filters(temperature=2.0, top_p=0.7)(logits)).sum() == 3
    assert kept(Filters(top_p=0.7)(logits)).sum() == 2


def test_filters_leave_their_argument_alone() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    filtered = Filters(temperature=0.7, top_k=5, top_p=0.8, min_p=0.1)(logits)
    assert torch.equal(logits, before)
    assert filtered.dtype == torch.float64


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -3}, "top-k is -3"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"min_p": -0.1}, "min-p is -0.1"),
        ({"min_p": 1.1}, "min-p is 1.1"),
    ],
)
def test_values_out_of_range_are_refused_in_one_sentence(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Filters(**values)  # type: ignore[arg-type]


NAMES = {each.name for each in dataclasses.fields(FilterSettings)}
PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"
FILES_OF_A_FILTER = {"config/filters.py", "sampling/filters.py", "sampling/engines/native/draw.h"}
ALSO_ON_THE_LINE = {"exporting/native/main.cpp"}
"""It takes the settings as words by position; a new one at the end has its default there until it is added."""


@pytest.mark.parametrize("name", sorted(NAMES - {"temperature"}))  # that is a word of prose, too
def test_a_filter_touches_four_files_at_most(name: str) -> None:
    """Its name stands in none but these; what makes, packs, hands on or saves filters goes by the fields."""
    other = re.compile(rf"\b{name}\b|\b{name.upper()}\b|\b{name.replace('_', '-')}\b")
    sources = [path for ending in ("py", "h", "cpp") for path in PACKAGE.rglob(f"*.{ending}")]
    found = {str(path.relative_to(PACKAGE)) for path in sources if other.search(path.read_text(encoding="utf-8"))}
    assert found <= FILES_OF_A_FILTER | ALSO_ON_THE_LINE


@given(LOGITS, FILTERS, st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_distribution_function(logits: Tensor, filters: Filters, u: float) -> None:
    filtered = filters(logits)
    token = draw(filtered, torch.full((len(logits),), u, dtype=torch.float64))
    probabilities = filtered.softmax(dim=-1)
    assert (probabilities.gather(-1, token[:, None]) > 0).all()
    cumulated = probabilities.cumsum(dim=-1).gather(-1, token[:, None])[:, 0]
    below = cumulated - probabilities.gather(-1, token[:, None])[:, 0]
    assert (cumulated >= u - ROUNDING).all()
    assert (below <= u + ROUNDING).all()


def test_draw_never_falls_off_either_end() -> None:
    """At u = 0 and at the largest u below 1, also where the first and the last tokens have probability zero."""
    logits = torch.tensor([[-math.inf, 0.0, 0.1, 0.2, -math.inf, -math.inf]])
    assert draw(logits, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]
    assert draw(logits, torch.tensor([1 - 2.0**-53], dtype=torch.float64)).tolist() == [3]


def test_draw_gives_each_token_a_half_open_interval() -> None:
    """Four equal tokens have [0, 1/4), [1/4, 1/2), [1/2, 3/4), [3/4, 1): bounds that float64 holds exactly."""
    u = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 0.7499, 0.75, 0.9999], dtype=torch.float64)
    assert draw(torch.zeros(8, 4), u).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_draw_never_takes_an_impossible_token_where_the_sum_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cumulated sum that creeps up by itself, like a GPU's but much more, over a row that is mostly impossible."""
    cumsum = torch.Tensor.cumsum
    creeping = 0.01 * torch.arange(8, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: cumsum(self, dim) + creeping)
    logits = torch.full((1000, 8), -math.inf)
    logits[:, [2, 5]] = 0.0
    assert set(draw(logits, torch.arange(1000) / 1000.0).tolist()) == {2, 5}


def test_streams_depend_on_seed_and_sequence_only() -> None:
    together = uniforms(7, range(5), 10)
    assert torch.equal(together[2:4], uniforms(7, [2, 3], 10))
    assert torch.equal(together[:, :4], uniforms(7, range(5), 4))
    assert together.dtype == torch.float64 and ((together >= 0) & (together < 1)).all()


def test_streams_of_different_seeds_and_sequences_differ() -> None:
    """Neither (seed, i) and (i, seed) nor pairs of equal sum meet: 40 x 40 streams, no value twice."""
    values = torch.cat([uniforms(seed, range(40), 4).flatten() for seed in range(40)])
    assert len(values.unique()) == len(values)


def test_streams_are_uniform_and_uncorrelated() -> None:
    """200 sequences x 500 numbers of one seed. Each bound is 5 standard errors: false alarm below 1e-5, and seeded."""
    u = uniforms(3, range(200), 500)
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12) ** 0.5 / u.numel() ** 0.5
    centred = u - 0.5
    neighbours = (centred[:-1] * centred[1:]).mean() * 12  # correlation of sequence i with i + 1
    assert abs(float(neighbours)) < 5 / centred[1:].numel() ** 0.5


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match="the seed is"):
        uniforms(seed, range(1), 1)
