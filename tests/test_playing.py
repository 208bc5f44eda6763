"""Clips that are played faster or slower, and louder or quieter, each time a classifier reads them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from s4gen.config import AudioLayout, load_recipe
from s4gen.data.audio.format import format_of
from s4gen.data.audio.playing import played
from s4gen.errors import UserError
from s4gen.train.examples import ExampleTask

LAYOUT = AudioLayout(8000, "linear", 16)


def tone(hertz: float, n: int = 4000, peak: float = 0.25) -> np.ndarray:
    return format_of(LAYOUT).quantiser.encode(peak * np.sin(2 * np.pi * hertz / LAYOUT.rate * np.arange(n)))


def heard(codes: np.ndarray) -> np.ndarray:
    return format_of(LAYOUT).quantiser.decode(codes)


def test_a_clip_played_faster_is_shorter_and_higher_by_one_factor_within_the_limits() -> None:
    draws, factors = np.random.default_rng(0), []
    for _ in range(200):
        samples = heard(played(tone(500), LAYOUT, draws, 0.2, 0))
        factors.append(4000 / len(samples))
        spectrum = np.abs(np.fft.rfft(samples))
        assert spectrum.argmax() / len(samples) * LAYOUT.rate == pytest.approx(500 * factors[-1], abs=3)
        assert np.abs(samples[50:-50]).max() == pytest.approx(0.25, rel=0.02)
    assert 0.8 <= min(factors) < 0.82 and 1.18 < max(factors) <= 1.21


def test_a_clip_is_made_louder_by_at_most_so_many_decibels_and_never_wraps_around() -> None:
    draws, codes = np.random.default_rng(0), tone(500)
    gains = [20 * np.log10(np.abs(heard(played(codes, LAYOUT, draws, 0, 6))).max() / 0.25) for _ in range(200)]
    assert -6.01 < min(gains) < -5.7 and 5.7 < max(gains) < 6.01
    loud = tone(500, peak=0.9)
    for _ in range(20):
        samples = heard(played(loud, LAYOUT, draws, 0, 20))
        assert (np.sign(samples) * np.sign(heard(loud)) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_shortest_clips_stay_clips(n: int) -> None:
    for seed in range(20):
        assert len(played(tone(500, n), LAYOUT, np.random.default_rng(seed), 0.5, 6)) >= 1


@pytest.mark.parametrize("reader", ["values", "tokens"])
def test_training_clips_change_from_epoch_to_epoch_and_are_a_function_of_seed_and_step(reader: str) -> None:
    overrides = ["data.dataset=fsdd-mini", "data.rate=1000", "data.validation=6", f"task.reader={reader}"]
    recipe = load_recipe("claims/fsdd-raw", [*overrides, "data.speed=0", "data.gain=0", "train.batch_size=2"])
    louder = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, speed=0.2, gain=6.0))
    plain, first, second = (ExampleTask(asked, progress=False) for asked in (recipe, louder, louder))
    for step in (0, 5):
        batch, again, before = first.batch(step), second.batch(step), plain.batch(step)
        assert (batch.inputs == again.inputs).all() and (batch.target == before.target).all()
        assert batch.inputs.shape != before.inputs.shape or (batch.inputs != before.inputs).any()
        assert batch.inputs.dtype == before.inputs.dtype and batch.inputs.shape[2:] == before.inputs.shape[2:]
    rows = [plain._training.inputs[0]] * 2
    one, other = (first._changed(rows, step)[0] for step in (0, 1))
    assert len(one) != len(other) or (one != other).any()
    # What is evaluated, and what the longest batch is measured with, stays as it is.
    assert (first._held.inputs[0] == plain._held.inputs[0]).all()
    longest = plain.example(2).inputs.shape[1]
    assert first.example(2).inputs.shape[1] == -(-longest * 5 // 4), "as long as the slowest clip may be"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.speed=0.6"], "data.speed = 0.6: expected a number from 0 to 0.5"),
        (["data.speed=nan"], "data.speed = nan: expected a number from 0 to 0.5"),
        (["data.gain=-1"], "data.gain = -1.0: expected a number of decibels from 0 to 60"),
        (["task.kind=density", "model.batch_norm=false"], 'data.speed = 0.15 goes with task.kind = "classify"'),
        (["data.dataset=listops", "data.gain=0"], 'data.speed = 0.15 goes with sound, not with data.dataset = "li'),
    ],
)
def test_where_there_are_no_clips_to_play_it_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("claims/fsdd-raw", overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
