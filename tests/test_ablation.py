"""The ablation's rows are what they say, and its results go into a table and a picture."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from s4gen.config import DensityConfig, ImageLayout
from s4gen.examples import ablation
from s4gen.models.build import build_model


@pytest.mark.parametrize("row", ablation.ROWS)
def test_every_row_builds_a_model(row: str) -> None:
    recipe = ablation.recipe_of(row, seed=3, minutes=2.5, per_step=0.25)
    assert (recipe.train.seed, recipe.train.steps, recipe.train.batch_size) == (3, 600, 4)
    assert recipe.train.minutes is None and recipe.optim.warmup_steps <= 60
    build_model(DensityConfig(ImageLayout(32, 32, 3), recipe.model, recipe.ssm))


def test_each_of_the_first_rows_adds_one_thing() -> None:
    """To the model or to the optimiser; what a part needs beside itself, such as its step sizes, is not counted."""
    rows = [ablation.recipe_of(row, 0, 1.0, 0.2) for row in list(ablation.ROWS)[1:7]]
    steps = [
        ("neighbourhood", 0, 2),
        ("taps", False, True),
        ("head", "categorical", "mixture"),
        ("zero_start", False, True),
    ]
    for (before, after), (key, old, new) in zip(itertools.pairwise(rows), steps, strict=False):
        assert (getattr(before.model, key), getattr(after.model, key)) == (old, new)
        changed = [k for k in vars(before.model) if getattr(before.model, k) != getattr(after.model, k)]
        assert changed == [key]
    assert rows[4].model == rows[5].model and (rows[4].optim.muon_lr, rows[5].optim.muon_lr) == (0, 1e-2)


def test_the_transformer_has_about_as_many_parameters() -> None:
    counts = []
    for row in ("axial: rows and columns in turn", "Transformer, same stem and head"):
        recipe = ablation.recipe_of(row, 0, 1.0, 0.2)
        model = build_model(DensityConfig(ImageLayout(32, 32, 3), recipe.model, recipe.ssm))
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_results_become_a_table_and_curves(tmp_path: Path) -> None:
    found = []
    for i, row in enumerate(list(ablation.ROWS)[:2]):
        folder = tmp_path / str(i)
        folder.mkdir()
        lines = [{"split": "train", "seconds": 10.0 * k, "bits_per_dim": 5 - 0.01 * k, "step": k} for k in range(1, 40)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        numbers = {"seconds_per_step": 0.5, "steps": 1234, "parameters": 5, "bits_per_dim": 4.25, "stderr": 0.03}
        found.append({"row": row, "seed": 0, "folder": str(folder), **numbers})
    ablation.write_results(tmp_path, found)
    table = (tmp_path / "table.md").read_text()
    assert "| + whole pixels | 5 | 1,234 | 0.500 | 4.250 ± 0.030 | 0 |" in table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "folder" not in json.loads((tmp_path / "results.json").read_text())[0]


def test_a_stop_of_one_row_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stopped(row: str, *_: object) -> None:
        asked.append(row)

    monkeypatch.setattr(ablation, "measured", stopped)
    monkeypatch.setattr(ablation, "measured_speeds", lambda rows, path: dict.fromkeys(rows, 1.0))
    assert ablation.main(["--seeds", "0", "1", "-o", str(tmp_path)]) == 130
    assert asked == list(ablation.ROWS)[:1] and not (tmp_path / "table.md").exists()


def test_an_unknown_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--rows", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("s4gen: error: no row is called 'nothing'; expected one of")
