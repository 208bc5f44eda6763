"""The command line measures audio: bits per sample in both modes, at other rates; certificates, facts, presets."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import nats_by_engine
from sounds import noise, put, tone

from s4gen.bench.baselines import parameter_count
from s4gen.bench.loss import loss_of
from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.cli.audio import longest_clips
from s4gen.config import (
    AudioLayout,
    DataConfig,
    DensityConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
    load_preset,
)
from s4gen.data.audio import AudioFormat, hold_out, open_split
from s4gen.data.audio.references import compressed_bits
from s4gen.errors import UserError
from s4gen.files.shipped import find
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.sequence import resampled
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine

MODEL = ModelConfig(d_model=8, n_layers=1, d_ff=8, pool=(2, 3))
SSM = SSMConfig(d_state=4, dt_min=0.05, dt_max=0.5)
SOUNDS = AudioLayout(400, classes=("high", "low"))
LENGTHS = {"high": (70, 41), "low": (55, 6)}
"""Samples at 400 Hz of the test clips; one is shorter than a pooling window of every level."""


def noisy(layout: AudioLayout = SOUNDS, model: ModelConfig = MODEL) -> DensityModel:
    """Weights off their initial values, so that nothing holds only because of a zero, and labels matter."""
    torch.manual_seed(0)
    built = build_model(DensityConfig(layout, model, SSM))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built.eval()


def save(path: Path, model: DensityModel, dataset: str = "audio:sounds", **data: Any) -> None:
    settings = DataConfig(dataset, rate=400, **data)
    recipe = Recipe(model.config.model, SSM, settings, OptimConfig(), TrainConfig())
    save_checkpoint(path, model, recipe=recipe, metrics={}, card="A card")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for split in ("train", "test"):
        for label, lengths in LENGTHS.items():
            for i, n in enumerate(lengths):
                put(folder / "sounds" / split / label / f"{i}.wav", tone(2 * n, 40.0, 800) + 0.1 * noise(2 * n), 800)
    save(folder / "pooled", noisy())
    save(folder / "wavenet", noisy(model=ModelConfig(mixer="wavenet", d_model=8, n_layers=3, d_ff=8)))
    save(folder / "digits", noisy(replace(SOUNDS, classes=())), "fsdd-mini", validation=3, max_seconds=0.35)
    return folder


@pytest.fixture
def room(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with sounds and three checkpoints."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def evaluated(capsys: Capture, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output(capsys, "eval", *argv, "--json"))
    return found


def refusal(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1].removeprefix("s4gen: error: ")


def clip_by_clip(model: DensityModel, rate: int) -> float:
    """Bits per sample with every clip alone: no padding anywhere."""
    audio = open_split("sounds", "test", AudioFormat(rate))
    assert audio.labels is not None
    nats, samples = 0.0, 0
    for i, label in enumerate(audio.labels):
        codes = torch.from_numpy(audio.clip(i).astype(np.int64))[None]
        nats += model.nats(codes, torch.tensor([label])).sum().item()
        samples += codes.numel()
    return nats / samples / math.log(2)


# eval


@pytest.mark.parametrize("name", ["pooled", "wavenet"])
@torch.no_grad()
def test_eval_counts_every_sample_once_with_its_label_in_both_modes(name: str, capsys: Capture, room: Path) -> None:
    results = [
        evaluated(capsys, name, *options)
        for options in ([], ["--batch", "3"], ["--mode", "recurrent"], ["--mode", "recurrent", "--engine", "native"])
    ]
    wanted = clip_by_clip(load_checkpoint(name).model, 400)
    for found in results:
        assert found["bits_per_sample"] == pytest.approx(wanted, abs=1e-4)
        assert (found["n_sequences"], found["n_samples"]) == (4, 172)
        assert (found["dataset"], found["split"], found["checkpoint"]) == ("audio:sounds", "test", name)
        assert (found["rate"], found["rate_factor"]) == (400, 1.0)
        assert found["stderr"] > 0 and found["seconds"] > 0
    assert [found["mode"] for found in results] == ["conv", "conv", "recurrent", "recurrent"]
    assert "engine" not in results[0] and results[2]["engine"] == "eager"
    assert results[0]["references"] == compressed_bits(open_split("sounds", "test", AudioFormat(400)))


def test_eval_without_the_labels_would_be_another_number(room: Path) -> None:
    """So the test above can fail: with the other label the clips cost something else."""
    model, x = load_checkpoint("pooled").model, torch.arange(60)[None]
    with torch.no_grad():
        first, second = (model.nats(x, torch.tensor([label])).mean().item() for label in (0, 1))
    assert abs(first - second) > 1e-3


@torch.no_grad()
def test_another_rate_is_another_dt_and_says_what_that_means(capsys: Capture, room: Path) -> None:
    options = ["eval", "pooled", "--rate", "0.5", "--json"]
    assert main(options) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    wanted = clip_by_clip(resampled(load_checkpoint("pooled").model, 2.0), 200)
    assert found["bits_per_sample"] == pytest.approx(wanted, abs=1e-4)
    assert (found["rate"], found["rate_factor"], found["n_samples"]) == (200, 0.5, 87)
    assert "every dt of the model times 2; pooling windows hold as many samples as before" in printed.err
    assert "4 of 4 recordings had another sampling rate and were resampled" in printed.err
    by_steps = evaluated(capsys, "pooled", "--rate", "0.5", "--mode", "recurrent")
    assert by_steps["bits_per_sample"] == pytest.approx(wanted, abs=1e-4)
    assert abs(clip_by_clip(load_checkpoint("pooled").model, 200) - wanted) > 1e-3


def test_eval_prints_lines_for_people_and_takes_the_first_clips(capsys: Capture, room: Path) -> None:
    line, references = output(capsys, "eval", "pooled", "--limit", "2", "--split", "train").splitlines()
    assert line.startswith("pooled on audio:sounds train at 400 Hz: ")
    assert "bits/sample (2 clips, 111 samples, conv mode, " in line
    assert references.startswith("for comparison, the same clips by compressors: gzip ")
    assert "flac of the sound " in references and "flac of the codes " in references


def test_validation_is_what_training_held_out_and_limits_of_length_hold(capsys: Capture, room: Path) -> None:
    found = evaluated(capsys, "digits", "--split", "validation")
    held = hold_out(open_split("fsdd-mini", "train", AudioFormat(400), max_seconds=0.35), 3)[1]
    assert (found["n_sequences"], found["n_samples"]) == (3, int(held.lengths.sum()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pooled", "--chunk", "3"], "--chunk is for text, and pooled is a model of sound; leave it out"),
        (["pooled", "--windows", "3"], "--windows is for text, and pooled is a model of sound; leave it out"),
        (["mnist-small", "--rate", "0.5"], "--rate is for sound, and mnist-small is a model of images; leave it out"),
        (["wavenet", "--rate", "2"], "--rate changes the step of state space layers, and model.mixer = "),
        (["pooled", "--rate", "8000"], "--rate 8000 times the model's 400 is 3,200,000 samples per second: expected "),
        (["pooled", "--rate", "0"], "argument --rate: got '0', expected a factor greater than 0"),
        (["pooled", "--dataset", "mnist-mini"], "mnist-mini is no sound, and pooled a model of sound: expected one"),
        (["pooled", "--dataset", "sounds"], "sounds is no sound, and pooled a model of sound: expected one of fsdd, "),
        (["pooled", "--dataset", "fsdd-mini"], "the model is conditional on high, low, and the clips of fsdd-mini "),
        (["digits", "--dataset", "audio:nowhere"], "nowhere is no folder"),
        (["mnist-small", "--dataset", "fsdd-mini"], "fsdd-mini is sound, and "),
    ],
)
def test_eval_refuses_in_one_line(arguments: list[str], message: str, capsys: Capture, room: Path) -> None:
    assert refusal(capsys, "eval", *arguments).startswith(message)


def test_a_folder_without_its_prefix_is_guessed(capsys: Capture, room: Path) -> None:
    assert refusal(capsys, "eval", "pooled", "--dataset", "sounds").endswith("; did you mean audio:sounds?")


# convert, info


def test_convert_certifies_on_clips_with_their_labels(capsys: Capture, room: Path) -> None:
    lines = output(capsys, "convert", "pooled", "converted", "--sequences", "2").splitlines()
    assert "2 sequences of 55 tokens (audio:sounds test)" in lines[1]
    assert sum("bits/sample" in line for line in lines) == 2
    names = [line.split()[0] for line in lines if "mixer" in line]
    assert sorted(names) == [f"blocks.0.{inner}up.0.mixer" for inner in ("inner.inner.", "inner.", "")]
    wanted = evaluated(capsys, "pooled", "--mode", "recurrent")["bits_per_sample"]
    assert evaluated(capsys, "converted", "--mode", "recurrent")["bits_per_sample"] == pytest.approx(wanted, abs=1e-6)
    output(capsys, "convert", "wavenet", "other", "--sequences", "1")


@pytest.mark.parametrize("mixer", ["s4d", "s4"])
def test_a_corrupted_layer_of_a_coarse_level_is_refused_by_name(mixer: str) -> None:
    recurrent = convert(noisy(model=replace(MODEL, mixer=mixer)))
    x, label = torch.randint(0, 256, (2, 40)), torch.tensor([1, 0])
    certificate = certify(recurrent, x, label=label)
    assert len(certificate.layer_differences) == 3
    assert certificate.max_abs_logprob_difference < 1e-4
    assert certificate.bits_per_dim_convolution != certify(recurrent, x).bits_per_dim_convolution
    dict(recurrent.stepper.get_submodule("blocks.0.inner.up.0.mixer").named_buffers())["B_bar"].mul_(1.5)
    with pytest.raises(UserError, match=r"the worst layer is blocks\.0\.inner\.up\.0\.mixer"):
        certify(recurrent, x, label=label)


def test_a_sequence_shorter_than_a_window_is_certified_at_the_levels_that_run() -> None:
    certificate = certify(convert(noisy()), torch.randint(0, 256, (2, 3)))
    assert sorted(certificate.layer_differences) == ["blocks.0.inner.up.0.mixer", "blocks.0.up.0.mixer"]


def test_the_longest_clips_are_cut_to_one_length(room: Path) -> None:
    audio = open_split("sounds", "test", AudioFormat(400))
    codes, labels = longest_clips(audio, 3, 1000)
    assert codes.shape == (3, 41) and labels is not None and labels.tolist() == [0, 0, 1]
    assert torch.equal(codes[1], torch.from_numpy(audio.clip(1).astype(np.int64)))
    assert longest_clips(audio, 9, 4)[0].shape == (4, 4)


def test_info_shows_format_and_levels(capsys: Capture, room: Path) -> None:
    facts = json.loads(output(capsys, "info", "pooled", "--json"))
    assert facts["layout"]["rate"] == 400 and facts["layout"]["classes"] == ["high", "low"]
    levels = facts["levels"]
    assert [level["stride"] for level in levels.values()] == [1, 2, 6]
    assert [level["d_model"] for level in levels.values()] == [8, 16, 32]
    counts = facts["parameters"]
    blocks = counts["mixers"] + counts["rest of the blocks"]
    assert sum(level["parameters"] for level in levels.values()) == blocks
    assert counts["total"] == sum(parameter.numel() for parameter in load_checkpoint("pooled").model.parameters())
    assert "level 2  stride 2, d_model 16, blocks 1, parameters " in output(capsys, "info", "pooled")
    assert "ssm" not in json.loads(output(capsys, "info", "wavenet", "--json"))


# The parts


@pytest.mark.parametrize("name", ["eager", "native"])
@torch.no_grad()
def test_padding_changes_no_row_that_an_engine_scores(name: str) -> None:
    recurrent, label = convert(noisy()), torch.tensor([1, 0])
    x = torch.randint(0, 256, (2, 25))
    other = x.clone()
    other[0, 10:] = 7
    engine = make_engine(name, recurrent)
    found = nats_by_engine(recurrent, engine, other, label)
    torch.testing.assert_close(found[0, :10], nats_by_engine(recurrent, engine, x, label)[0, :10], rtol=0, atol=1e-5)
    torch.testing.assert_close(found, recurrent.source.nats(other, label).double(), rtol=0, atol=1e-4)


def test_what_an_engine_loses_on_sound_is_in_bits_per_sample_over_all_classes() -> None:
    recurrent = convert(noisy())
    loss = loss_of(recurrent, make_engine("eager", recurrent), n=3, length=13)
    assert "bits/sample (39 of the model's own tokens)" in str(loss)
    assert loss.bits_per_dim == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "count"), [("sashimi-sc09", 4_764_224), ("sashimi-small", 1_576_128), ("sashimi-tiny", 252_224)]
)
def test_the_presets_have_the_sizes_that_the_table_says(name: str, count: int) -> None:
    model, ssm, layout = load_preset(name)
    assert isinstance(layout, AudioLayout)
    assert parameter_count(DensityConfig(layout, model, ssm)) == count
    assert f"| `{name}` | {count:,} |" in find("models", name).with_name("README.md").read_text(encoding="utf-8")


def test_the_preset_of_sc09_has_the_published_form() -> None:
    model, ssm, layout = load_preset("sashimi-sc09")
    assert layout == AudioLayout(16_000, "mu-law", 8, "minmax")
    assert model == ModelConfig("s4", 64, 8, d_ff=128, pool=(4, 4), expand=2)
    assert ssm == SSMConfig(d_state=64, n_ssm=1)
