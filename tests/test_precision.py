"""The precision that a recipe leaves open is settled once, by measurement, and recorded with the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from s4gen import train
from s4gen.config import Recipe, load_recipe
from s4gen.showing.progress import say_once
from s4gen.train import precision
from s4gen.train.precision import bf16_ratio, settled

CPU = torch.device("cpu")
TINY = ("data.dataset=mnist-mini", "model.n_layers=1", "model.d_model=8", "train.batch_size=2", "train.n_samples=0")


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo", (*TINY, "train.steps=2", "train.eval_limit=2", *overrides))


@pytest.fixture
def ratio(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> float:
    say_once.cache_clear()
    monkeypatch.setattr(precision, "bf16_ratio", lambda device: request.param)
    return float(request.param)


@pytest.mark.parametrize(
    ("ratio", "taken", "said"),
    [
        (2.0, "bf16", "precision bf16 (products in bf16 are 2.0 times as fast as fp32 here)"),
        (0.125, "fp32", "precision fp32 (products in bf16 are 8.0 times slower here)"),
    ],
    indirect=["ratio"],
)
def test_the_faster_precision_is_taken_and_said_once(
    ratio: float, taken: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe().train.precision == "auto"
    assert [settled(recipe(), CPU).train.precision for _ in range(2)] == [taken, taken]
    assert capsys.readouterr().err == f"s4gen: {said}\n"


@pytest.mark.parametrize("ratio", [0.2], indirect=True)
def test_bf16_where_it_is_slow_is_warned_of_and_fp32_is_not(ratio: float, capsys: pytest.CaptureFixture[str]) -> None:
    asked = recipe("train.precision=bf16")
    assert settled(asked, CPU) == asked
    assert "bf16 is slow here: products take 5.0 times as long as in fp32" in capsys.readouterr().err
    assert settled(recipe("train.precision=fp32"), CPU).train.precision == "fp32"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ratio", [3.0], indirect=True)
def test_a_run_records_what_was_taken_and_goes_on_with_it(
    ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(recipe(), tmp_path / "run", progress=False)
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.precision == "bf16"
    monkeypatch.setattr(precision, "bf16_ratio", lambda device: 0.1)
    capsys.readouterr()
    train.run(None, tmp_path / "run", resume=True, steps=3, progress=False)
    assert "10.0 times as long as in fp32; a run keeps the precision that it began with" in capsys.readouterr().err
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.precision == "bf16"
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_the_ratio_of_this_machine_is_a_number_that_machines_have() -> None:
    assert 0.001 < bf16_ratio(CPU) < 50


def test_a_run_that_records_none_settles_it_when_it_goes_on(tmp_path: Path) -> None:
    """As one of an older version, or whose files were edited."""
    out = tmp_path / "run"
    train.run(recipe("train.precision=fp32"), out, progress=False)
    for path in (out / "recipe.toml", out / "checkpoint" / "recipe.toml"):
        path.write_text(path.read_text().replace('precision = "fp32"\n', ""))
    train.run(None, out, resume=True, steps=3, progress=False)
    assert load_recipe(out / "checkpoint" / "recipe.toml").train.precision in ("fp32", "bf16")
