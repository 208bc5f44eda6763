"""Patience: training ends where held-out data no longer improve, and the best model is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from interrupted import stop_after
from refusals import assert_refused_in_one_line
from test_train import files, recipe

from s4gen.checkpoint import load_checkpoint, load_tensors
from s4gen.cli import main
from s4gen.config import DataConfig, Recipe
from s4gen.models.density import DensityModel
from s4gen.train import run
from s4gen.train.images import ImageTask
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import Measured
from s4gen.train.training_run import Best


def patient(**train: object) -> Recipe:
    return recipe(**{"steps": 20, "eval_every": 2, "save_every": 100, "patience": 3, **train})


def say(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Let evaluation number i, which is at step 2 (i + 1), find values[i]."""
    seen: list[float] = []

    def evaluate(self: ImageTask, model: DensityModel, ranks: Ranks) -> Measured:
        seen.append(values[len(seen)])
        return Measured({"bits_per_dim": seen[-1], "stderr": 0.0}, 1)

    monkeypatch.setattr(ImageTask, "evaluate", evaluate)


def steps_of(folder: Path) -> tuple[int, int]:
    """Steps of the best and of the last model."""
    best, last = (load_checkpoint(folder / name).metrics["step"] for name in ("best", "checkpoint"))
    return best, last


def test_a_run_ends_after_so_many_evaluations_without_a_new_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tie is no new best, and a new best begins the count anew."""
    say(monkeypatch, [5.0, 4.0, 4.0, 4.5, 3.5, 3.6, 3.5, 3.7, 1.0])
    out = tmp_path / "out"
    assert run(patient(), out, progress=False)
    assert steps_of(out) == (10, 16)
    assert capsys.readouterr().err.splitlines() == [
        f"stopped early at step 16, best at step 10 of 20, bits_per_dim 3.5000 on held-out data: {out / 'best'}"
    ]


def test_a_run_that_keeps_improving_takes_all_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, [1 / (i + 1) for i in range(10)])
    assert run(patient(), tmp_path / "out", progress=False)
    assert steps_of(tmp_path / "out") == (20, 20)
    assert "best at step 20 of 20" in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    best = Best()
    assert best.improved(2.0, 1)
    assert not best.improved(float("nan"), 2)
    assert not best.improved(2.0, 3)
    assert best == Best(2.0, 1, since=2)


def test_the_best_model_is_the_running_mean_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bit for bit what a run that ends at that step publishes; evaluated and loaded as any checkpoint."""
    say(monkeypatch, [3.0, 2.0, 2.5, 2.5, 2.5])
    run(patient(save_every=2), tmp_path / "long", progress=False)
    best = load_tensors(tmp_path / "long" / "best" / "model.safetensors")
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        stop_after(patch, 4, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(patient(save_every=2), tmp_path / "short", progress=False)
    short = load_tensors(tmp_path / "short" / "checkpoint" / "model.safetensors")
    assert best.keys() == short.keys()
    assert all(torch.equal(best[name], short[name]) for name in best)


def test_a_resumed_run_counts_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the middle of its patience, it ends at the same step with the same weights and the same best."""
    values = [5.0, 4.0, 4.5, 4.5, 4.5, 1.0]
    with monkeypatch.context() as patch:
        say(patch, values)
        run(patient(save_every=1), tmp_path / "whole", progress=False)
        say(patch, values)
        stop_after(patch, 7, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(patient(save_every=1), tmp_path / "cut", progress=False)
    saved = json.loads((tmp_path / "cut" / "checkpoint" / "training.json").read_text())
    assert saved["best"] == {"value": 4.0, "step": 4, "since": 1}
    with monkeypatch.context() as patch:
        say(patch, values[3:])
        run(None, tmp_path / "cut", resume=True, progress=False)
    assert steps_of(tmp_path / "cut") == steps_of(tmp_path / "whole") == (4, 10)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_run_that_has_ended_early_has_nothing_left_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, [1.0, 2.0, 2.0, 2.0])
    run(patient(), tmp_path / "out", progress=False)
    before = files(tmp_path / "out")
    assert run(None, tmp_path / "out", resume=True, progress=False)
    assert files(tmp_path / "out") == before


def test_without_patience_no_best_model_is_kept_and_an_earlier_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(patient(steps=2), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "best").is_dir()
    run(recipe(steps=2), tmp_path / "out", overwrite=True, progress=False)
    assert not (tmp_path / "out" / "best").exists()


@pytest.mark.parametrize("dataset", ["fsdd-mini", "wikitext-mini"])
def test_sound_and_text_have_a_best_model_too(tmp_path: Path, dataset: str) -> None:
    data = DataConfig(dataset, validation=3) if dataset == "fsdd-mini" else DataConfig(dataset)
    train = dataclasses.replace(patient().train, steps=2, batch_size=2, chunk=16 if dataset != "fsdd-mini" else 256)
    run(dataclasses.replace(patient(), data=data, train=train), tmp_path / "out", progress=False)
    assert steps_of(tmp_path / "out") == (2, 2)


def test_patience_needs_something_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "mnist-small", "--set", "data.validation=0", "train.patience=4"]
    message = "train.patience = 4 needs held-out data, and data.validation = 0: hold some out, or leave it out"
    assert_refused_in_one_line(main, arguments, message, capsys)
    assert not any(tmp_path.iterdir())
