"""A schedule in minutes: the steps that fit are found once, recorded, and kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interrupted import stop_after
from test_train import CPU, files, recipe

from s4gen.cli import main
from s4gen.config import DataConfig, Recipe, load_recipe, recipe_to_toml
from s4gen.train import opening, run, steps_in_time
from s4gen.train.batches import Batch
from s4gen.train.training_run import TrainingRun


class Clock:
    """Time that passes in training steps alone: `first` seconds in the first of all, then `each`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float, first: float = 0.0) -> None:
        self.now, self.steps = 0.0, 0
        self.each, self.first = each, first
        monkeypatch.setattr(steps_in_time, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(steps_in_time, "training_step", self.step)

    def step(self, training: TrainingRun, batch: Batch) -> tuple[float, float]:
        self.steps += 1
        self.now += self.first if self.steps == 1 else self.each
        return 0.0, 0.0


def with_minutes(minutes: float, **train: Any) -> Recipe:
    return recipe(minutes=minutes, **train)


def fitted(settings: Recipe) -> Recipe:
    return steps_in_time.fitted(settings, opening.open_task(settings, CPU), CPU)


@pytest.mark.parametrize(("each", "steps"), [(0.5, 240), (0.07, 1714), (200.0, 1)])
def test_the_steps_fill_the_minutes(monkeypatch: pytest.MonkeyPatch, each: float, steps: int) -> None:
    """Two minutes are 120 seconds; there is at least one step, however long it takes."""
    Clock(monkeypatch, each)
    assert fitted(with_minutes(2.0)).train.steps == steps


def test_compiling_in_the_first_step_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, each=0.5, first=60.0)
    assert fitted(with_minutes(2.0)).train.steps == 240


def test_measuring_takes_a_twentieth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 120 seconds: six, and the step under way; a slow step is measured once, after the first."""
    clock = Clock(monkeypatch, each=0.5)
    fitted(with_minutes(2.0))
    assert clock.now <= 6 + 2 * 0.5
    clock = Clock(monkeypatch, each=50.0)
    fitted(with_minutes(2.0))
    assert clock.steps == 2


def test_the_warm_up_is_a_tenth_of_the_steps_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, each=2.0)
    settings = with_minutes(1.0)
    long = dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, warmup_steps=1000))
    assert fitted(long).optim.warmup_steps == 3
    assert fitted(settings).optim.warmup_steps == 2


def test_a_recipe_without_minutes_is_itself() -> None:
    assert fitted(recipe()) == recipe()


def test_the_steps_are_recorded_and_a_resumed_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the machine is at by then, and although the recipe on the command line names minutes alone."""
    Clock(monkeypatch, each=10.0)
    source = tmp_path / "source.toml"
    settings = with_minutes(1.0, batch_size=2, eval_limit=1)
    source.write_text(recipe_to_toml(settings))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings, tmp_path / "cut", progress=False)
    assert "10.000 s a step, so 6 steps in 1 minutes" in capsys.readouterr().err
    recorded = load_recipe(tmp_path / "cut" / "recipe.toml").train
    assert (recorded.minutes, recorded.steps) == (1.0, 6)
    Clock(monkeypatch, each=0.001)
    assert main(["train", str(source), "--resume", str(tmp_path / "cut")]) == 0
    fixed = dataclasses.replace(settings, train=dataclasses.replace(settings.train, minutes=None, steps=6))
    fixed = dataclasses.replace(fixed, optim=dataclasses.replace(fixed.optim, warmup_steps=1))
    run(fixed, tmp_path / "whole", progress=False)
    assert files(tmp_path / "cut") == files(tmp_path / "whole"), "what was measured is forgotten"


@pytest.mark.parametrize("dataset", ["fsdd-mini", "wikitext-mini"])
def test_sound_and_text_fit_into_minutes_too(tmp_path: Path, dataset: str) -> None:
    """With a real clock: a run of a second and a half of training takes one to three, evaluations apart."""
    data = DataConfig(dataset, validation=3) if dataset == "fsdd-mini" else DataConfig(dataset)
    train = dataclasses.replace(recipe().train, batch_size=2, minutes=0.01, eval_every=10**6, save_every=10**6)
    if dataset == "wikitext-mini":
        train = dataclasses.replace(train, chunk=16)
    settings = dataclasses.replace(recipe(), data=data, train=train)
    assert run(settings, tmp_path / "out", progress=False)
    recorded = load_recipe(tmp_path / "out" / "recipe.toml").train
    assert recorded.minutes == 0.01
    assert recorded.steps >= 1
