"""The speed of training: what is counted, against what peak, and that compiled blocks train as others do."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from test_train import CPU, recipe

from s4gen.checkpoint import load_tensors
from s4gen.config import DataConfig, DensityConfig, ImageLayout, load_preset, load_recipe
from s4gen.files.shipped import find, shipped_names
from s4gen.models.build import build_shapes
from s4gen.models.flops import count_flops
from s4gen.train import run, training_run, utilisation
from s4gen.train.batches import TokenBatch
from s4gen.train.metrics import read_metrics
from s4gen.train.speed import Speed

SHAPES = build_shapes(DensityConfig(ImageLayout(4, 4, 3), recipe().model, recipe().ssm))


def test_the_share_of_the_peak_is_operations_over_time_over_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "peak_rate", lambda device, precision: 1e9)
    speed = Speed(SHAPES, CPU, "fp32", "images")
    speed.add(TokenBatch(torch.zeros(3, 48, dtype=torch.int64)), 0.5)
    speed.add(TokenBatch(torch.zeros(5, 24, dtype=torch.int64)), 1.5)
    operations = 3 * count_flops(SHAPES, 48).training + 5 * count_flops(SHAPES, 24).training
    values = speed.values()
    assert values == {
        "images_per_second": 8 / 2,
        "tokens_per_second": (3 * 48 + 5 * 24) / 2,
        "utilisation": pytest.approx(operations / 2 / 1e9),
    }
    assert speed.say() == f"4.0 images/s, {values['utilisation']:.0%} of peak"
    speed.reset()
    speed.add(TokenBatch(torch.zeros(1, 48, dtype=torch.int64)), 1.0)
    assert speed.values()["images_per_second"] == 1


def test_on_an_unknown_card_the_share_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "peak_rate", lambda device, precision: None)
    speed = Speed(SHAPES, CPU, "fp32", "tokens")
    speed.add(TokenBatch(torch.zeros(3, 48, dtype=torch.int64)), 0.5)
    assert speed.values() == {"tokens_per_second": 288.0}
    assert speed.say() == "288.0 tokens/s"


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("NVIDIA A1000", None),
    ],
)
def test_cards_are_known_by_whole_words_of_their_names(name: str, bf16: float | None) -> None:
    assert utilisation.published_peak(name, "bf16") == bf16
    fp32 = utilisation.published_peak(name, "fp32")
    assert (fp32 is None) == (bf16 is None)
    assert fp32 is None or bf16 is None or fp32 < bf16


def test_the_peak_of_a_cpu_is_measured_once_and_draws_nothing() -> None:
    utilisation.peak_rate.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = utilisation.peak_rate(CPU, "fp32")
    assert torch.equal(torch.rand(2), expected)
    assert found is not None and found > 1e8
    assert utilisation.peak_rate(CPU, "fp32") == found


@pytest.mark.parametrize(
    ("dataset", "columns"),
    [
        ("mnist-mini", ["images_per_second", "tokens_per_second"]),
        ("fsdd-mini", ["clips_per_second", "tokens_per_second"]),
        ("wikitext-mini", ["tokens_per_second"]),
    ],
)
def test_the_metrics_hold_the_speed(tmp_path: Path, dataset: str, columns: list[str]) -> None:
    data = DataConfig(dataset) if dataset == "wikitext-mini" else DataConfig(dataset, validation=3)
    train = dataclasses.replace(recipe().train, steps=2, batch_size=2, chunk=16 if len(columns) == 1 else 256)
    run(dataclasses.replace(recipe(), data=data, train=train), tmp_path / "out", progress=False)
    rows = [row for row in read_metrics(tmp_path / "out") if row["split"] == "train"]
    assert all(row[column] > 0 for row in rows for column in (*columns, "utilisation"))
    with (tmp_path / "out" / "metrics.csv").open() as file:
        header = next(csv.reader(file))
    assert [column for column in header if column.endswith("_per_second")] == columns
    assert len(set(header)) == len(header)


@pytest.mark.slow
@pytest.mark.timeout(900)  # of a busy core the compiler takes minutes
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_blocks_take_the_same_steps_under_the_same_names(tmp_path: Path) -> None:
    """Three steps of a run: weights equal to rounding, names and files those of an eager run; it can be resumed."""
    settings = recipe(steps=3, eval_every=3, save_every=1)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, dropout=0.0))
    run(settings, tmp_path / "eager", progress=False)
    compiled = dataclasses.replace(settings, train=dataclasses.replace(settings.train, compile=True))
    run(compiled, tmp_path / "compiled", progress=False)
    for file in ("model.safetensors", "training.safetensors"):
        a, b = (load_tensors(tmp_path / name / "checkpoint" / file) for name in ("eager", "compiled"))
        assert a.keys() == b.keys()
        for key in a.keys() - {"rng.cpu"}:
            assert torch.allclose(a[key].float(), b[key].float(), rtol=1e-3, atol=1e-4), key
    resumed = training_run.resume(tmp_path / "compiled", CPU)
    assert all(block._compiled_call_impl is not None for block in resumed.model.blocks)
    assert training_run.mean_model(resumed).blocks[0]._compiled_call_impl is None, "what is evaluated is not compiled"


@pytest.mark.parametrize("name", [name for name in shipped_names("train") if name.startswith("cifar10-")])
def test_the_hours_in_the_head_of_a_recipe_are_those_of_its_operations(name: str) -> None:
    """Where a head says hours that are computed: FLOPs of the model, steps, batch, the card's peak, the utilisation."""
    text = find("train", name).read_text(encoding="utf-8")
    said = re.search(r"^# hours +([\d.]+) on an H200 at (\d+) % of its bf16 peak. Computed", text, re.MULTILINE)
    if said is None:
        assert name == "cifar10-small", "it is for a CPU"
        return
    settings, (_, _, layout) = load_recipe(name), load_preset(name)
    assert layout is not None
    model = build_shapes(DensityConfig(layout, settings.model, settings.ssm))
    operations = count_flops(model, layout.length).training * settings.train.steps * settings.train.batch_size
    rate = float(said[2]) / 100 * utilisation.PEAKS["H200"][0]
    assert float(said[1]) == pytest.approx(operations / rate / 3600, abs=0.06)
