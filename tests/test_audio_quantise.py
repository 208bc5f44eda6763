"""Codes and samples: the round trip is exact, the levels are the published ones, silence is silence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from s4gen.config.layouts import LAWS
from s4gen.data.audio import AudioFormat, Quantiser
from s4gen.errors import UserError

EVERY = [Quantiser(law, bits) for law in LAWS for bits in range(2, 17)]
QUANTISERS = st.sampled_from(EVERY)


@pytest.mark.parametrize("quantiser", EVERY, ids=str)
def test_the_round_trip_is_exact_on_codes_in_both_precisions(quantiser: Quantiser) -> None:
    codes = np.arange(quantiser.levels)
    samples = quantiser.decode(codes)
    assert samples.dtype == np.float32
    for given_as in (samples, samples.astype(np.float64)):
        back = quantiser.encode(given_as)
        assert back.dtype == quantiser.dtype
        np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("quantiser", EVERY, ids=str)
def test_silence_is_the_middle_code_and_decodes_to_zero(quantiser: Quantiser) -> None:
    assert quantiser.silence == 2 ** (quantiser.bits - 1)
    for zero in (0.0, -0.0, 1e-9, -1e-9):
        assert quantiser.encode(np.array([zero])) == quantiser.silence
    assert quantiser.decode(np.array([quantiser.silence])) == 0.0


def test_eight_bits_have_the_levels_of_the_published_code() -> None:
    """c / 128 - 1, then the inverse of mu-law with mu = 255; computed here one by one with the math module."""
    linear, mu_law = Quantiser("linear").decode(np.arange(256)), Quantiser("mu-law").decode(np.arange(256))
    for code in range(256):
        v = code / 128 - 1
        assert linear[code] == v
        assert math.isclose(mu_law[code], math.copysign((256 ** abs(v) - 1) / 255, v), rel_tol=1e-6)


@given(QUANTISERS, arrays.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1, 1)))
def test_a_sample_becomes_the_code_whose_companded_value_is_nearest(quantiser: Quantiser, samples: np.ndarray) -> None:
    mu, half = quantiser.levels - 1, quantiser.levels / 2
    bent = samples if quantiser.law == "linear" else np.sign(samples) * np.log1p(mu * np.abs(samples)) / np.log1p(mu)
    distance = np.abs(bent - (quantiser.encode(samples) / half - 1))
    allowed = np.where(bent > 1 - 1 / half, 1 / half, 0.5 / half)  # nothing is above the last code
    assert (distance <= allowed + 1e-12).all()


@given(QUANTISERS, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_louder_is_never_a_lower_code(quantiser: Quantiser, a: float, b: float) -> None:
    low, high = quantiser.encode(np.array(sorted((a, b))))
    assert low <= high


def test_what_is_beyond_full_scale_is_clipped_to_the_last_codes() -> None:
    for quantiser in EVERY:
        assert quantiser.encode(np.array([-1.0, -5.0, 1.0, 1e30])).tolist() == [0, 0] + [quantiser.levels - 1] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        Quantiser().encode(np.array([0.0, bad]))


@pytest.mark.parametrize("bad", [-1, 256])
def test_what_is_no_code_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="expected codes 0 to 255"):
        Quantiser().decode(np.array([0, bad]))


def test_no_samples_are_no_codes_and_shapes_stay() -> None:
    quantiser = Quantiser()
    assert quantiser.encode(np.zeros((0,))).shape == quantiser.decode(np.zeros((0,), np.uint8)).shape == (0,)
    assert quantiser.decode(quantiser.encode(np.zeros((2, 3), np.float32))).shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"law": "a-law"}, 'format.law = "a-law": expected one of mu-law, linear'),
        ({"bits": 1}, "format.bits = 1: expected 2 to 16"),
        ({"bits": 17}, "format.bits = 17: expected 2 to 16"),
        ({"rate": 0}, "format.rate = 0: expected 100 to 1000000 samples per second"),
        ({"normalise": "loud"}, 'format.normalise = "loud": expected one of none, peak, minmax'),
    ],
)
def test_a_format_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AudioFormat(**{"rate": 8000, **settings})  # type: ignore[arg-type]
