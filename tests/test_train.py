"""Training: what it learns, what it writes, and that a run can be stopped anywhere and go on exactly."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import stop_after
from processes import running

from s4gen.checkpoint import load_checkpoint, load_tensors
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
)
from s4gen.errors import UserError
from s4gen.models.density import DensityModel
from s4gen.train import images, opening, optim, run, training_run
from s4gen.train.metrics import read_metrics
from s4gen.train.stop import stop_on_signal

CPU = torch.device("cpu")


def recipe(**train: Any) -> Recipe:
    settings = {
        "steps": 6,
        "precision": "fp32",
        "batch_size": 4,
        "log_every": 1,
        "eval_every": 3,
        "eval_limit": 3,
        "save_every": 2,
    }
    return Recipe(
        ModelConfig(d_model=8, n_layers=1, d_ff=8, dropout=0.1),  # dropout: the random state matters
        SSMConfig(d_state=4),
        DataConfig(dataset="mnist-mini", validation=3),
        OptimConfig(warmup_steps=2),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in (folder / "checkpoint").iterdir() if f.suffix == ".safetensors"}


@pytest.mark.parametrize(("precision", "muon_lr"), [("fp32", 0.0), ("bf16", 0.0), ("fp32", 0.01)])
def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, muon_lr: float
) -> None:
    """Weights, running mean, optimisers and random state, after dying between two checkpoints."""
    settings = recipe(precision=precision)
    settings = dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, muon_lr=muon_lr))
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, flips=True))
    assert run(settings, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 5, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings, tmp_path / "cut", progress=False)
    assert run(None, tmp_path / "cut", resume=True, progress=False)
    whole, cut = files(tmp_path / "whole"), files(tmp_path / "cut")
    assert set(whole) == {"model.safetensors", "training.safetensors"}
    assert whole == cut
    saved = load_tensors(tmp_path / "cut" / "checkpoint" / "training.safetensors")
    assert any(name.startswith("optimizer.momentum_buffer.") for name in saved) is (muon_lr > 0)
    rows = [read_metrics(tmp_path / name) for name in ("whole", "cut")]
    for a, b in zip(*rows, strict=True):
        assert (a["step"], a["split"], a["bits_per_dim"]) == (b["step"], b["split"], b["bits_per_dim"])


@pytest.mark.parametrize("mixer", ["s4", "dss", "lssl", "attention"])
def test_every_mixer_trains_saves_and_loads(tmp_path: Path, mixer: str) -> None:
    """Also with a fixed B, which is a buffer and has no running mean."""
    settings = recipe(steps=2, batch_size=1, eval_limit=1)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, mixer=mixer),
        ssm=dataclasses.replace(settings.ssm, train_B=mixer == "attention"),
    )
    assert run(settings, tmp_path / "out", progress=False)
    assert load_checkpoint(tmp_path / "out" / "checkpoint").recipe == settings


def test_training_learns(tmp_path: Path) -> None:
    """From 8 bits to below 3 on real digits in 60 steps of a tiny model; held-out images with it."""
    settings = dataclasses.replace(
        recipe(steps=60, eval_every=60, eval_limit=50), optim=OptimConfig(warmup_steps=5, lr=0.02)
    )
    run(dataclasses.replace(settings, data=DataConfig("mnist-mini", 50)), tmp_path / "out", progress=False)
    rows = read_metrics(tmp_path / "out")
    train = [row["bits_per_dim"] for row in rows if row["split"] == "train"]
    held = [row["bits_per_dim"] for row in rows if row["split"] == "validation"]
    assert train[0] > 6
    assert sum(train[-10:]) / 10 < 3
    assert held[-1] < 3.5


def test_a_run_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def sampler(model: DensityModel, n: int, seed: int) -> torch.Tensor:
        calls.append((model.training, n, seed))
        return torch.zeros(n, model.config.layout.length, dtype=torch.int64)

    out = tmp_path / "out"
    run(recipe(n_samples=2), out, sampler=sampler, progress=False)
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"s4gen: trained 6 steps: .* on held-out data; {out / 'checkpoint'}", said)
    assert calls == [(False, 2, 0), (False, 2, 0)]
    assert sorted(f.name for f in (out / "samples").iterdir()) == ["step-000003.png", "step-000006.png"]
    checkpoint = load_checkpoint(out / "checkpoint")
    assert checkpoint.recipe == recipe(n_samples=2)
    assert checkpoint.metrics["step"] == 6
    assert checkpoint.metrics["validation"]["n_sequences"] == 3
    assert "bits/dim" in (out / "checkpoint" / "README.md").read_text()
    rows = read_metrics(out)
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    with (out / "metrics.csv").open() as file:
        assert [float(row["bits_per_dim"]) for row in csv.DictReader(file)] == [row["bits_per_dim"] for row in rows]


def test_the_checkpoint_holds_the_running_mean(tmp_path: Path) -> None:
    run(recipe(), tmp_path / "out", progress=False)
    folder = tmp_path / "out" / "checkpoint"
    published, training = load_tensors(folder / "model.safetensors"), load_tensors(folder / "training.safetensors")
    assert any(not torch.equal(published[name], training[f"weights.{name}"]) for name in published)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_ends_cleanly(tmp_path: Path, name: str) -> None:
    """In a process of its own, as a person would press Ctrl-C."""
    source = Path(__file__).with_name("train_forever.py")
    out = tmp_path / "out"
    with running([sys.executable, source, out]) as child:
        deadline = time.monotonic() + 120
        while not read_metrics(out) and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.1)
        child.send_signal(getattr(signal, name))
        _, message = child.communicate(timeout=60)
    assert child.returncode == 0, message
    saved = json.loads((out / "checkpoint" / "training.json").read_text())["step"]
    assert saved >= read_metrics(out)[-1]["step"] > 0
    assert f"go on with: s4gen train --resume {out}" in message
    assert "Traceback" not in message


def test_handlers_come_back_after_training() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_comes_twice_lets_the_run_be_saved_and_ctrl_c_does_not_wait() -> None:
    """A terminal that is closed and a system that shuts down may both say so."""
    with stop_on_signal() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_an_ignored_signal_stays_ignored() -> None:
    """As in the background of a script, whose Ctrl-C is meant for the script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_output_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        run(recipe(), tmp_path, progress=False)
    assert (tmp_path / "note").read_text() == "mine"


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        run(None, tmp_path / "nowhere", resume=True, progress=False)
    with pytest.raises(UserError):
        run(None, tmp_path, resume=True, progress=False)


@pytest.mark.faults("NaN: a loss that is not finite")
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DensityModel.nats
    seen = []
    monkeypatch.setattr(opening, "check_memory", lambda *_: None)  # which measures on the same function

    def explode(self: DensityModel, x: torch.Tensor, label: None = None) -> torch.Tensor:
        if self.training:
            seen.append(1)
        return real(self, x, label) * (float("nan") if len(seen) == 5 else 1)

    monkeypatch.setattr(DensityModel, "nats", explode)
    with pytest.raises(UserError, match=r"not|no longer finite.*step 5.*optim\.lr"):
        run(recipe(), tmp_path / "out", progress=False)
    assert load_checkpoint(tmp_path / "out" / "checkpoint").metrics["step"] == 4


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second save fails half-way; the first one is still there, whole."""
    real, saves = training_run.save_tensors, []

    def full(path: Path, tensors: Any) -> None:
        saves.append(path)
        if len(saves) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(training_run, "save_tensors", full)
    with pytest.raises(UserError, match="disk"):
        run(recipe(), tmp_path / "out", progress=False)
    assert load_checkpoint(tmp_path / "out" / "checkpoint").metrics["step"] == 2
    monkeypatch.undo()
    assert run(None, tmp_path / "out", resume=True, progress=False)


def test_every_epoch_reads_every_sequence_once() -> None:
    for epoch in range(3):
        read = torch.cat([images.batch_indices(10, 3, 7, step, CPU) for step in range(3 * epoch, 3 * epoch + 3)])
        assert len(set(read.tolist())) == 9
    first, second = (images.batch_indices(10, 3, 7, step, CPU).tolist() for step in (0, 3))
    assert first != second
    assert len(images.batch_indices(2, 5, 0, 11, CPU)) == 2


def test_every_parameter_is_in_one_group_and_the_ssm_in_its_own() -> None:
    config = DensityConfig(ImageLayout(28, 28, 1), recipe().model, recipe().ssm)
    built = training_run.start(recipe(), config, CPU)
    groups = optim.parameter_groups(built.model)
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in built.model.named_parameters())
    assert "blocks.0.mixer.raw_dt" in groups["ssm"]
    assert "blocks.0.output.linear.weight" in groups["hidden"]
    assert "head.weight" in groups["decay"]
    assert {"blocks.0.mixer.C", "embedding.value.weight", "norm.bias"} <= set(groups["plain"])
    by_decay = {group["weight_decay"]: group["peak_lr"] for group in built.optimizers[0].param_groups}
    assert by_decay[0.01] == 4e-3
    assert built.optimizers[0].param_groups[0]["peak_lr"] == 1e-3
    assert built.optimizers[0].param_groups[0]["weight_decay"] == 0


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [optim.schedule(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0)


def test_a_finished_run_shows_how_it_learnt(tmp_path: Path) -> None:
    """Not a run that was stopped: its picture would be half of one."""
    from s4gen.train.card import learning_curve

    settings = recipe(steps=4, log_every=1, eval_every=2)
    run(settings, tmp_path / "run", progress=False)
    folder = tmp_path / "run/checkpoint"
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "](curve.png)" in (folder / "README.md").read_text(encoding="utf-8")
    assert learning_curve(tmp_path, "bits_per_dim") is None
