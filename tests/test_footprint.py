"""Memory: what a run needs is known before it starts, and what cannot fit is refused in one line."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import assert_refused_in_one_line
from test_train import CPU, recipe

from s4gen.bench.apart import run_apart
from s4gen.bench.instruments import PeakMemory
from s4gen.cli import main
from s4gen.config import ModelConfig, Recipe, SSMConfig
from s4gen.machine import memory
from s4gen.machine.memory import available_bytes, check_room, in_words
from s4gen.models.build import build_shapes
from s4gen.models.sequence import SequenceModel
from s4gen.train import footprint, loop, opening, training_run
from s4gen.train.step import training_step

PIXELS = ModelConfig(d_model=96, n_layers=3, d_ff=192, whole_pixels=True, taps=True, scan=("row", "column"))
VALUES = ModelConfig(d_model=96, n_layers=3, d_ff=192)
SIZES: dict[str, tuple[ModelConfig, dict[str, object]]] = {
    "values": (VALUES, {"batch_size": 32}),
    "bf16": (VALUES, {"batch_size": 32, "precision": "bf16"}),
    "parts": (VALUES, {"batch_size": 64, "accumulate": 2}),
    "computed again": (VALUES, {"batch_size": 32, "checkpoint_activations": True}),
    "pixels": (PIXELS, {"batch_size": 32}),
    "weights": (dataclasses.replace(VALUES, d_model=768, d_ff=3072), {"batch_size": 1}),
}


def of_size(name: str) -> Recipe:
    model, train = SIZES[name]
    return dataclasses.replace(recipe(**train), model=model, ssm=SSMConfig(d_state=16, init="lin"))


def measured_and_estimated(name: str) -> tuple[float, float]:
    """Peak of two training steps above what the process had before, and the estimate, in bytes."""
    settings = of_size(name)
    loop._arrange_memory(settings)
    task, peak = opening.open_task(settings, CPU), PeakMemory(CPU)
    state = training_run.start(settings, task.config(settings), CPU)
    state.model.train()
    for step in range(2):
        training_step(state, task.batch(step))
    return peak.mb() * 1e6, footprint.footprint(settings, task, CPU).total


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_estimate_is_within_a_factor_of_two_of_the_peak(name: str) -> None:
    """In a fresh process each, so that its peak is its own; so nothing that needs half of the memory is refused."""
    peak, estimate = run_apart(measured_and_estimated, name)
    assert peak / 2 < estimate < 2 * peak


def test_tensors_are_counted_as_pytorch_counts_them() -> None:
    """Of two linear layers and a product the saved tensors are known: the estimate of a model is made of such."""
    settings = of_size("values")
    task = opening.open_task(settings, CPU)
    model = training_run.start(settings, task.config(settings), CPU).model
    one, two, four = (footprint.activations(model, task.example(rows), settings) for rows in (1, 2, 4))
    assert four - two == 2 * (two - one), "a row more is as much more, whatever the batch"
    least = 784 * 4 * (3 * (4 * 96 + 192) + 256)  # inputs of the layers in three blocks, and the logits
    assert least < two - one < 8 * least


def test_computing_blocks_again_keeps_less_and_bf16_keeps_less() -> None:
    def kept(name: str) -> int:
        settings = of_size(name)
        task = opening.open_task(settings, CPU)
        model = training_run.start(settings, task.config(settings), CPU).model
        return footprint.activations(model, task.example(8), settings)

    assert kept("computed again") < kept("values") / 1.5
    assert kept("bf16") < 0.9 * kept("values")


def test_what_is_computed_again_is_never_kept_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks together may be far too large, even for one row; and two rows may be, where a step has one."""
    plain, again = of_size("values"), of_size("computed again")
    task = opening.open_task(plain, CPU)
    model = training_run.start(plain, task.config(plain), CPU).model
    wanted = footprint.activations(model, task.example(4), plain)
    run_blocks, recomputed, rows = SequenceModel._run_blocks, list[bool](), list[int]()

    def watched(self: SequenceModel, *args: Any) -> Any:
        recomputed.append(self.recompute)
        return run_blocks(self, *args)

    monkeypatch.setattr(SequenceModel, "_run_blocks", watched)
    assert footprint.activations(model, task.example(4), again) < wanted / 1.5
    assert recomputed == [True]
    monkeypatch.setattr(footprint, "activations", lambda _, batch, __: (rows.append(len(batch.read)), 1)[1])
    for size, measured in ((1, [1]), (2, [1, 2])):
        rows.clear()
        settings = of_size("values")
        settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_size=size))
        footprint.footprint(settings, opening.open_task(settings, CPU), CPU)
        assert rows == measured


def test_memory_is_returned_where_blocks_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    called = list[str]()
    for name in ("keep_freed_memory", "return_freed_memory"):
        monkeypatch.setattr(loop, name, functools.partial(called.append, name))
    for settings in (of_size("values"), None, of_size("computed again")):
        loop._arrange_memory(settings)
    assert called == ["keep_freed_memory", "keep_freed_memory", "return_freed_memory"]


def test_what_stays_is_weights_gradients_mean_and_moments() -> None:
    """Five numbers for each weight; one less where Muon has it, which keeps no squares."""
    settings = of_size("pixels")
    task = opening.open_task(settings, CPU)
    state = training_run.start(settings, task.config(settings), CPU)
    n_bytes = sum(parameter.nbytes for parameter in state.model.parameters())
    assert footprint.kept_bytes(state.model, settings.optim) == 5 * n_bytes
    assert footprint.kept_bytes(build_shapes(state.model.config), settings.optim) == 5 * n_bytes
    hidden = sum(p.nbytes for name, p in state.model.named_parameters() if name.startswith("blocks.") and p.dim() == 2)
    with_muon = footprint.kept_bytes(state.model, dataclasses.replace(settings.optim, muon_lr=0.01))
    assert 5 * n_bytes - hidden <= with_muon < 5 * n_bytes


def test_the_estimate_leaves_the_random_state_alone() -> None:
    settings = of_size("pixels")
    task = opening.open_task(settings, CPU)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    footprint.check_memory(settings, task, CPU)
    assert torch.equal(torch.rand(2), expected)


def test_a_batch_too_large_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 3 * 10**8)
    arguments = ["train", "mnist-small", "--set", "data.dataset=mnist-mini", "train.batch_size=100000"]
    remedy = "choose a smaller train.batch_size (now 100000), a larger train.accumulate (1) or "
    assert_refused_in_one_line(main, arguments, remedy + "train.checkpoint_activations = true", capsys)
    arguments = [*arguments, "model.d_model=100000"]
    assert_refused_in_one_line(main, arguments, "parameters needs about", capsys)
    assert not any(tmp_path.iterdir())


def test_a_refusal_says_how_much_is_needed_and_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_500_000_000)
    check_room(1_500_000_000, CPU, "this", "wait")
    with pytest.raises(memory.UserError) as error:
        check_room(12_340_000_000, CPU, "this", "wait")
    assert str(error.value) == "this needs about 12.3 GB, and there are 1.5 GB of available memory: wait"
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    check_room(10**18, CPU, "this", "wait")


def test_the_memory_of_this_machine_is_known() -> None:
    found = available_bytes(CPU)
    assert found is not None
    assert 2**20 < found < 2**50


def test_the_limit_of_a_container_counts_without_the_files_it_has_read(tmp_path: Path) -> None:
    assert memory._free_in_container(tmp_path) is None
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 400\nfile 250\nkernel 50")):
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert memory._free_in_container(tmp_path) == 1000 - 700 + 250
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_container(tmp_path) is None


@pytest.mark.parametrize(("n", "words"), [(999, "999 bytes"), (2_500_000, "2.5 MB"), (7_123_400_000_000, "7,123.4 GB")])
def test_bytes_in_words(n: int, words: str) -> None:
    assert re.fullmatch(words, in_words(n))


def test_sequences_too_long_to_be_measured_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image of 4096 x 4096 pixels is more than what is measured on it could hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * 10**7)
    monkeypatch.setattr(footprint, "footprint", lambda *_: pytest.fail("a whole sequence was measured"))
    arguments = ["train", "mnist-small", "--set", "data.dataset=mnist-mini", "train.batch_size=10000"]
    assert_refused_in_one_line(main, arguments, "rows at a time needs about", capsys)
    assert not any(tmp_path.iterdir())
