"""Models of sound: how they train on clips of any lengths, and what recordings cost under them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import stop_after

from s4gen.checkpoint import load_checkpoint, load_tensors
from s4gen.config import (
    AudioLayout,
    DataConfig,
    DensityConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
)
from s4gen.data.audio import format_of, open_split
from s4gen.data.audio.batches import ClipBatch
from s4gen.data.audio.opening import (
    check_fits,
    layout_of,
    recipe_crop,
    recipe_format,
    recipe_limits,
    training_splits,
)
from s4gen.data.audio.write import write_audio
from s4gen.errors import UserError
from s4gen.evaluate.audio import evaluate_clips, ratio
from s4gen.evaluate.scorers import by_convolution
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.sequence import resampled
from s4gen.train import loop, optim, run, training_run
from s4gen.train.audio import AudioTask
from s4gen.train.metrics import read_metrics

CLASSES = tuple("0123456789")
STACKS = {
    "sashimi": ModelConfig("s4d", 8, 1, d_ff=8, dropout=0.1, pool=(4, 2)),
    "unet": ModelConfig("s4", 4, 1, d_ff=4, pool=(3,), unet=True),
    "wavenet": ModelConfig("wavenet", 8, 3, d_ff=8),
    "plain": ModelConfig("s4d", 8, 2, d_ff=8),
    "attention": ModelConfig("attention", 8, 1, d_ff=8, n_heads=2, window=32),
}


def recipe(stack: str = "sashimi", data: dict[str, Any] | None = None, **train: Any) -> Recipe:
    settings = {
        "steps": 4,
        "precision": "fp32",
        "batch_size": 4,
        "log_every": 1,
        "eval_every": 2,
        "eval_limit": 3,
        "save_every": 2,
    }
    known = {"labels": True, "tail": 0.01, "validation": 4, "rate": 1000}
    return Recipe(
        STACKS[stack],
        SSMConfig(d_state=4, init="legs"),
        DataConfig("fsdd-mini", **{**known, **(data or {})}),
        OptimConfig(warmup_steps=2),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def model(stack: str = "sashimi", classes: tuple[str, ...] = CLASSES, bits: int = 8, seed: int = 0) -> DensityModel:
    torch.manual_seed(seed)
    settings = dataclasses.replace(STACKS[stack], dropout=0.0)
    return build_model(DensityConfig(AudioLayout(8000, bits=bits, classes=classes), settings, SSMConfig(d_state=4)))


def config_of(settings: Recipe) -> DensityConfig:
    return DensityConfig(AudioLayout(1000, classes=CLASSES), settings.model, settings.ssm)


def clips(lengths: tuple[int, ...] = (50, 31, 7), bits: int = 8, seed: int = 1) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (len(lengths), max(lengths)), generator=generator)
    return ClipBatch(codes, torch.tensor(lengths), torch.arange(len(lengths)) % 10, torch.arange(len(lengths)))


# The model


@pytest.mark.parametrize("stack", STACKS)
def test_forward_is_chunked_is_stepped_and_the_label_matters(stack: str) -> None:
    network, x, label = model(stack).double().eval(), clips((41, 41)).codes, torch.tensor([3, 7])
    with torch.no_grad():
        whole = network.nats(x, label)
        fed = torch.nn.functional.pad(x[:, :-1], (1, 0), value=network.bos)
        state, parts = network.initial_state(2, label), []
        for tokens, target in zip(fed.split(13, 1), x.split(13, 1), strict=True):
            nats, state = network.score(tokens, target, state)
            parts.append(nats)
        assert (torch.cat(parts, 1) - whole).abs().max() < 1e-9
        state, stepped = network.initial_state(2, label), []
        for t in range(x.shape[1]):
            logits, state = network.step(fed[:, t], state)
            stepped.append(-logits.log_softmax(-1).gather(-1, x[:, t : t + 1])[:, 0])
        assert (torch.stack(stepped, 1) - whole).abs().max() < 1e-9
        other = network.nats(x, torch.tensor([3, 8]))
    assert torch.equal(other[0], whole[0]) and (other[1] - whole[1]).abs().min() > 1e-6


def test_a_label_is_part_of_the_state_and_class_0_where_none_is_given() -> None:
    network = model().eval()
    with torch.no_grad():
        _, state = network.prefill(torch.zeros(2, 5, dtype=torch.int64), label=torch.tensor([4, 9]))
        assert state.label.tolist() == [4, 9]  # type: ignore[union-attr]
        x = clips((20, 20)).codes
        assert torch.equal(network.nats(x), network.nats(x, torch.tensor([0, 0])))
    assert model(classes=()).initial_state(3).label == ()


def test_every_parameter_is_in_one_group_of_the_optimiser_and_moves() -> None:
    network = model("unet")
    groups = optim.parameter_groups(network)
    assert sorted(name for names in groups.values() for name in names) == sorted(dict(network.named_parameters()))
    assert sum("log_dt" in name or "dt" in name.rpartition(".")[2] for name in groups["ssm"]) >= 3  # on every level
    network.nats(clips((30, 30)).codes, torch.tensor([1, 2])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_another_rate_changes_every_level() -> None:
    network = model("unet")
    slower = resampled(network, 2.0)
    before, after = dict(network.named_parameters()), dict(slower.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == sum(hasattr(module, "rescale_dt_") for module in network.modules()) == 3


# The loop


def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(recipe(accumulate=2), tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(recipe(accumulate=2), tmp_path / "cut", progress=False)
    assert run(None, tmp_path / "cut", resume=True, progress=False)
    whole, cut = (load_tensors(tmp_path / name / "checkpoint" / "training.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    first, second = (read_metrics(tmp_path / name) for name in ("whole", "cut"))
    assert [row["bits_per_sample"] for row in first] == [row["bits_per_sample"] for row in second]
    checkpoint = load_checkpoint(tmp_path / "cut" / "checkpoint")
    assert checkpoint.config.layout == AudioLayout(1000, classes=CLASSES)
    card = (tmp_path / "cut" / "checkpoint" / "README.md").read_text()
    assert "Conditional on the label" in card and "bits/sample" in card and "strides [4, 2]" in card


@pytest.mark.parametrize("stack", ["wavenet", "attention", "plain"])
def test_the_baselines_train_by_the_same_command(stack: str, tmp_path: Path) -> None:
    assert run(recipe(stack, steps=2), tmp_path / "run", progress=False)
    assert math.isfinite(read_metrics(tmp_path / "run")[-1]["bits_per_sample"])


def test_padding_counts_nowhere_and_the_tail_is_silence_that_counts() -> None:
    task = AudioTask(recipe(data={"tail": 0.02}), progress=False)
    batch = task.batch(0)
    assert batch.counted is not None and batch.label is not None
    training, _ = training_splits(recipe().data)
    silence = training.format.quantiser.silence
    lengths = batch.counted.sum(1)
    assert lengths.max() == batch.tokens.shape[1] and lengths.min() < lengths.max()
    for row, length in zip(batch.tokens, lengths.tolist(), strict=True):
        assert (row[length - 20 : length] == silence).all() and (row[: length - 20] != silence).any()
        assert (row[length:] == silence).all()


def test_what_stands_in_the_padding_changes_neither_loss_nor_gradient() -> None:
    found = []
    for filler in (128, 5):
        state = training_run.start(recipe(), config_of(recipe()), torch.device("cpu"))
        state.model.eval()  # no dropout
        batch = AudioTask(recipe(), progress=False).batch(0)
        assert batch.counted is not None
        tokens = torch.where(batch.counted, batch.tokens, filler)
        nats, _ = loop.training_step(state, dataclasses.replace(batch, tokens=tokens))
        found.append((nats, [p.grad for p in state.model.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0][1], found[1][1], strict=True))  # type: ignore[arg-type]


def test_parts_of_a_batch_have_the_gradient_of_the_whole() -> None:
    grads = []
    for accumulate in (1, 2):
        settings = recipe(accumulate=accumulate)
        state = training_run.start(settings, config_of(settings), torch.device("cpu"))
        state.model.eval()
        loop.training_step(state, AudioTask(settings, progress=False).batch(0))
        grads.append([parameter.grad for parameter in state.model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))  # type: ignore[arg-type]


def test_samples_are_files_that_play(tmp_path: Path) -> None:
    task = AudioTask(recipe(), progress=False)
    task.save_sample(torch.randint(0, 256, (2, 300)), tmp_path / "step-000002")
    found = open_split(str(tmp_path), "train", format_of(task.layout))  # type: ignore[arg-type]
    assert sum(found.lengths.tolist()) >= 300 and found.format.rate == 1000


def test_a_tail_behind_crops_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.tail = 0.01 goes with whole clips, not with crops of 100 samples"):
        AudioTask(recipe(data={"crop": 0.1}), progress=False)
    assert AudioTask(recipe(data={"crop": 0.1, "tail": 0.0}), progress=False).batch(0).tokens.shape == (4, 100)


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for i in range(9):
        write_audio(tmp_path / f"{i}.wav", np.sin(np.arange(500 + i) / 5), 8000)
    settings = recipe(data={"validation": 1000, "rate": 8000})
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, dataset=f"audio:{tmp_path}"))
    with pytest.raises(UserError, match=r"data.labels = true: the clips of .* have no labels; leave it out"):
        AudioTask(settings, progress=False)


def test_a_folder_is_split_and_the_validation_split_is_cut(tmp_path: Path) -> None:
    for i in range(40):
        write_audio(tmp_path / f"{i}.wav", np.sin(np.arange(500 + i) / 5), 8000)
    data = DataConfig(f"audio:{tmp_path}", rate=4000)
    training, held = training_splits(data)
    assert held is not None and len(training) > 30 and 1 < len(held) < 5
    _, one = training_splits(dataclasses.replace(data, validation=1))
    assert one is not None and one.names == held.names[:1]
    assert training_splits(dataclasses.replace(data, validation=0))[1] is None


# What recordings cost


def test_bits_per_sample_are_those_of_every_clip_scored_alone() -> None:
    network, batch = model().double().eval(), clips()
    found = evaluate_clips(by_convolution(network), [batch], network.bos, 3, "conv")
    assert batch.labels is not None
    with torch.no_grad():
        alone = [
            network.nats(row[None, :n], label[None]).sum().item() / math.log(2)
            for row, n, label in zip(batch.codes, batch.lengths.tolist(), batch.labels, strict=True)
        ]
    assert found.bits_per_sample == pytest.approx(sum(alone) / 88, rel=1e-9)
    assert (found.n_sequences, found.n_samples, found.mode) == (3, 88, "conv")
    split = [clips((50,)), clips((31,)), clips((7,))]
    assert evaluate_clips(by_convolution(network), split, network.bos, 3, "conv").n_samples == 88


def test_recordings_longer_than_a_chunk_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = model().double().eval(), clips()
    whole = evaluate_clips(by_convolution(network), [batch], network.bos, 3, "conv").bits_per_sample
    monkeypatch.setattr("s4gen.evaluate.audio.SAMPLES", 39)
    assert evaluate_clips(by_convolution(network), [batch], network.bos, 3, "conv").bits_per_sample == pytest.approx(
        whole, rel=1e-9
    )


def test_a_model_that_knows_nothing_costs_the_bits_of_a_code() -> None:
    network = model(bits=5)
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    found = evaluate_clips(by_convolution(network), [clips(bits=5)], network.bos, 3, "conv")
    assert found.bits_per_sample == pytest.approx(5, rel=1e-6) and found.stderr < 1e-6


def test_the_standard_error_of_a_ratio_is_that_of_repeated_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 400, (4000, 40), generator=generator).double()
    costs = lengths * (5 + torch.randn(4000, 40, generator=generator, dtype=torch.float64))
    found = torch.tensor([ratio(cost, length) for cost, length in zip(costs, lengths, strict=True)])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.05)
    assert math.isnan(ratio(costs[0, :1], lengths[0, :1])[1])


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(UserError, match="there are no clips to evaluate"):
        evaluate_clips(by_convolution(model()), [], 0, 0, "conv")


# From recipes to clips


@pytest.mark.parametrize(
    ("data", "rate", "law", "normalise", "crop"),
    [
        (DataConfig("fsdd"), 8000, "mu-law", "none", None),
        (DataConfig("fsdd", rate=4000, law="linear", crop=0.5), 4000, "linear", "none", 2000),
        (DataConfig("sc09", rate=8000), 8000, "mu-law", "minmax", 8000),
        (DataConfig("beethoven", normalise="peak"), 16000, "linear", "peak", 128000),
        (DataConfig("audio:x"), 16000, "mu-law", "none", None),
    ],
)
def test_a_recipe_says_the_format_and_the_set_says_the_rest(
    data: DataConfig, rate: int, law: str, normalise: str, crop: int | None
) -> None:
    format = recipe_format(data)
    assert (format.rate, format.law, format.normalise, recipe_crop(data)) == (rate, law, normalise, crop)


def test_layouts_and_clips_fit_or_are_refused() -> None:
    audio = open_split("fsdd-mini", "test", recipe_format(DataConfig("fsdd-mini", bits=6)))
    layout = layout_of(audio, labelled=True)
    assert layout == AudioLayout(8000, bits=6, classes=CLASSES) and format_of(layout) == audio.format
    check_fits(audio, layout.classes)
    check_fits(audio, ())
    with pytest.raises(UserError, match="the model is conditional on a, b, and the clips of fsdd-mini are labelled 0,"):
        check_fits(audio, ("a", "b"))
    with pytest.raises(UserError, match="labelled with nothing"):
        check_fits(dataclasses.replace(audio, labels=None), layout.classes)


def test_limits_of_length_leave_clips_out() -> None:
    everything = open_split("fsdd-mini", "train", recipe_format(DataConfig("fsdd-mini")))
    limits = DataConfig("fsdd-mini", min_seconds=0.3, max_seconds=0.5)
    some = open_split("fsdd-mini", "train", recipe_format(limits), *recipe_limits(limits))
    assert 0 < len(some) < len(everything)
    assert some.lengths.min() >= 2400 and some.lengths.max() <= 4000


def test_a_little_training_learns(tmp_path: Path) -> None:
    assert run(recipe(steps=20, eval_every=20), tmp_path / "run", progress=False)
    found = [row["bits_per_sample"] for row in read_metrics(tmp_path / "run")]
    assert found[0] > 7.5 and found[-1] < found[0] - 0.15
