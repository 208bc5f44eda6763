"""Training predictors: they learn, resume exactly, begin from density models, are measured, or refused in one line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import assert_refused_in_one_line
from tiny_predictor import toy_series, toy_splits

from s4gen import cli
from s4gen.checkpoint import load_any, load_checkpoint, load_predictor, load_tensors
from s4gen.config import DataConfig, TaskConfig
from s4gen.data.examples import Examples, ExampleSplits, Series, spread_over, windows
from s4gen.data.labelled.opening import open_examples
from s4gen.errors import UserError
from s4gen.sampling.streams import Stream
from s4gen.train.metrics import read_metrics

CLASSIFY = """
[model]
d_model = 16
n_layers = 2
d_ff = 16
[ssm]
d_state = 8
dt_max = 0.5
[data]
dataset = "labelled:toy"
tokenizer = "bytes"
[task]
kind = "classify"
[optim]
lr = 0.02
warmup_steps = 5
ema_decay = 0.9
[train]
steps = 60
batch_size = 12
eval_every = 20
save_every = 20
precision = "fp32"
"""
FORECAST = """
[model]
d_model = 16
n_layers = 1
d_ff = 0
[ssm]
d_state = 8
dt_max = 0.5
[data]
dataset = "csv:toy.csv"
[task]
kind = "forecast"
window = 20
horizon = 4
targets = ["y"]
[optim]
lr = 0.02
warmup_steps = 5
ema_decay = 0.9
[train]
steps = 60
batch_size = 16
eval_every = 20
save_every = 60
precision = "fp32"
"""
DENSITY = """
[model]
d_model = 16
n_layers = 2
d_ff = 16
[ssm]
d_state = 8
dt_max = 0.5
[data]
dataset = "./texts"
tokenizer = "bytes"
[train]
steps = 2
batch_size = 2
chunk = 16
n_samples = 0
precision = "fp32"
"""


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put toy data in the place of those that recipes name, and a recipe for each into the folder that we are in."""

    def examples(data: DataConfig, task: TaskConfig, progress: bool = False) -> ExampleSplits:
        return toy_splits()

    def series(data: DataConfig, task: TaskConfig) -> Series:
        return toy_series()

    for module in ("s4gen.train.examples", "s4gen.data.labelled.opening"):
        monkeypatch.setattr(f"{module}.open_examples", examples)
    for module in ("s4gen.train.forecasting", "s4gen.data.labelled.series"):
        monkeypatch.setattr(f"{module}.open_series", series)
    monkeypatch.chdir(tmp_path)
    for name, text in (("classify", CLASSIFY), ("forecast", FORECAST), ("density", DENSITY)):
        Path(f"{name}.toml").write_text(text)
    Path("texts").mkdir()
    for split in ("train", "valid"):
        Path(f"texts/{split}.txt").write_text("abba" * 100)


def train(*arguments: str) -> int:
    return cli.main(["train", *arguments])


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_tensors(Path(run) / "checkpoint" / "training.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["eval", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_classifier_learns_is_measured_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("classify.toml", "--out", "run") == 0
    said = capsys.readouterr().err
    assert "trained 60 steps: accuracy 1.0000, cross-entropy 0." in said
    found = evaluated(capsys, "run/checkpoint")
    assert found["accuracy"] > 0.9
    assert found["n"] == 40 and found["classes"] == ["b", "a"] and found["task"] == "classify"
    assert sum(map(sum, found["confusion"])) == 40
    assert found["stderr"] == pytest.approx((found["accuracy"] * (1 - found["accuracy"]) / 40) ** 0.5)
    stepped = evaluated(capsys, "run/checkpoint", "--mode", "recurrent")
    assert (stepped["accuracy"], stepped["confusion"]) == (found["accuracy"], found["confusion"])
    assert stepped["cross_entropy"] == pytest.approx(found["cross_entropy"], abs=1e-4)
    assert evaluated(capsys, "run/checkpoint", "--split", "validation", "--limit", "7")["n"] == 7
    assert cli.main(["eval", "run/checkpoint"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("run/checkpoint on labelled:toy test: accuracy ")
    assert "true class in rows, answer in columns:" in text
    assert cli.main(["info", "run/checkpoint", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["task"]["kind"] == "classify" and facts["task"]["answers"] == ["b", "a"]
    assert facts["state"]["bytes_per_stream"] == 8 + 2 * 16 * 8 * 4 + 16 * 8
    assert facts["parameters"]["total"] == sum(p.numel() for p in load_predictor("run/checkpoint").model.parameters())
    rows = read_metrics(Path("run"))
    assert {"cross_entropy", "examples_per_second"} <= rows[0].keys()
    assert [row["step"] for row in rows if row["split"] == "validation"] == [20, 40, 60]
    card = Path("run/checkpoint/README.md").read_text()
    assert card.startswith("# labelled:toy: s4d classifier\n") and "Classes: b, a." in card
    assert not list(Path("run").glob("samples/*"))


@pytest.mark.parametrize("settings", [[], ["model.batch_norm=true", "optim.ema_decay=0"], ["optim.muon_lr=0.01"]])
def test_a_run_that_was_resumed_is_the_uninterrupted_one_bit_for_bit(settings: list[str]) -> None:
    chosen = ["--set", "train.save_every=4", "train.eval_every=4", "model.dropout=0.1", *settings]
    assert train("classify.toml", "--out", "whole", *chosen, "train.steps=8") == 0
    stops = itertools.chain([False] * 4, itertools.repeat(True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s4gen.train.spread.Whole.must_stop", property(lambda self: next(stops)))
        assert train("classify.toml", "--out", "stopped", *chosen, "train.steps=8") == 130
    assert json.loads(Path("stopped/checkpoint/training.json").read_text())["step"] == 4
    assert train("--resume", "stopped") == 0
    assert_same(weights("stopped"), weights("whole"))
    assert_same(*(load_tensors(Path(run, "checkpoint", "model.safetensors")) for run in ("stopped", "whole")))


def test_a_forecaster_beats_the_last_value_and_prints_horizon_mse_and_mae(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("forecast.toml", "--out", "run") == 0
    found = evaluated(capsys, "run/checkpoint")
    assert {"horizon", "mse", "mae"} <= found.keys()
    assert (found["horizon"], found["n"], found["targets"]) == (4, 77, ["y"])
    series = toy_series()
    starts = windows(series, "test", 20, 4)
    y = series.values[:, 1]
    last = np.mean([(y[i + 20 : i + 24] - y[i + 19]) ** 2 for i in starts])
    assert found["mse"] < last / 4
    model = load_predictor("run/checkpoint").model
    i = int(starts[3])
    row = torch.from_numpy(np.concatenate((series.values, series.times), 1)[i : i + 20])[None]
    errors = (model.answer(row)[0].detach().numpy() - y[i + 20 : i + 24]) ** 2
    alone = evaluated(capsys, "run/checkpoint", "--limit", "77")["mse"]
    assert alone == found["mse"] and np.isfinite(errors).all()
    assert cli.main(["eval", "run/checkpoint"]) == 0
    assert "of standardised values, horizon 4 (77 windows" in capsys.readouterr().out


def test_windows_lie_in_their_part_and_what_they_read_may_lie_before_it() -> None:
    series = toy_series()
    assert windows(series, "train", 20, 4)[[0, -1]].tolist() == [0, 240 - 24]
    assert windows(series, "validation", 20, 4)[[0, -1]].tolist() == [220, 320 - 24]
    assert windows(series, "test", 20, 4)[[0, -1]].tolist() == [300, 400 - 24]
    with pytest.raises(UserError, match=r"the validation part has 80 rows, too few for task.window = 20 and task.hor"):
        windows(series, "validation", 20, 101)
    assert spread_over(10, 4).tolist() == [0, 2, 5, 7]
    assert spread_over(3, 9).tolist() == [0, 1, 2]


def test_a_regression_is_measured_in_the_units_of_the_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(n: int, seed: int) -> Examples:
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((n, 8, 1)).astype(np.float32)
        return Examples(list(rows), (70 + 20 * rows.mean((1, 2)))[:, None].astype(np.float32))

    from s4gen.config import SeriesLayout

    made = ExampleSplits(part(60, 0), part(20, 1), part(30, 2), SeriesLayout(("0",), (0.0,), (1.0,)), ("pulse",))
    for module in ("s4gen.train.examples", "s4gen.data.labelled.opening"):
        monkeypatch.setattr(f"{module}.open_examples", lambda *_: made)
    chosen = ["data.dataset=npy:toy", "task.kind=regress", "data.tokenizer=word"]
    assert train("classify.toml", "--out", "run", "--set", *chosen, "train.steps=80") == 0
    found = evaluated(capsys, "run/checkpoint")
    std = made.train.targets.std()
    assert found["rmse"] == pytest.approx(float(std) * found["mse"] ** 0.5, rel=1e-4)
    assert found["rmse"] < float(std) / 2
    spoilt = ExampleSplits(
        Examples(made.train.inputs, np.full((60, 1), 7.0, np.float32)),
        *(made.validation, made.test),
        made.layout,
        ("p",),
    )
    monkeypatch.setattr("s4gen.train.examples.open_examples", lambda *_: spoilt)
    assert_refused_in_one_line(
        lambda arguments: cli.main(arguments),
        ["train", "classify.toml", "--out", "new", "--set", *chosen],
        "p is the same in all examples, so there is nothing to learn",
        capsys,
    )


def test_arrays_of_another_folder_are_scaled_as_the_model_was_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the training part of the other folder is like, the model reads the same test rows."""
    for module in ("s4gen.train.examples", "s4gen.data.labelled.opening"):
        monkeypatch.setattr(f"{module}.open_examples", open_examples)
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(3, 2, (40, 8, 2)) + y[:, None, None]
    for name, train_x in (("own", x), ("other", 7 * x - 2)):
        Path(name).mkdir()
        for what, array in (("trainx", train_x), ("trainy", y), ("testx", x[:20]), ("testy", y[:20])):
            np.save(f"{name}/{what}.npy", array)
    chosen = ["data.dataset=npy:./own", "data.validation=8", "data.tokenizer=word", "train.steps=20"]
    assert train("classify.toml", "--out", "run", "--set", *chosen) == 0
    own, other = (evaluated(capsys, "run/checkpoint", "--dataset", f"npy:./{name}") for name in ("own", "other"))
    assert own["accuracy"] > 0.6, "the model has learnt something that another scale would spoil"
    assert other["cross_entropy"] == pytest.approx(own["cross_entropy"], rel=1e-5)


def test_a_classifier_begins_from_a_density_model_of_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("density.toml", "--out", "density") == 0
    before = load_checkpoint("density/checkpoint").model.state_dict()
    one_step = ["train.steps=1", "train.eval_every=1"]
    for how in (["--start", "density", "--set", *one_step], ["--set", "train.start=density", *one_step]):
        out = f"run{len(how)}"
        capsys.readouterr()
        assert train("classify.toml", "--out", out, *how, "optim.lr=1e-30", "optim.ssm_lr=1e-30") == 0
        assert "of the model's" in capsys.readouterr().err
        after = load_predictor(f"{out}/checkpoint").model.state_dict()
        taken = [name for name in after if name in before and torch.equal(before[name], after[name])]
        assert {name for name in after if name.startswith(("blocks.", "norm.", "embedding."))} == set(taken)
    assert (
        train("classify.toml", "--out", "both", "--start", "density", "--set", "task.bidirectional=true", *one_step)
        == 0
    )
    said = capsys.readouterr().err
    assert (
        "initialised anew, because the checkpoint has no tensor of this name and shape: blocks.0.mixer.backward" in said
    )
    refused = ["train", "classify.toml", "--out", "new", "--start", "density", "--set", "model.d_model=24"]
    assert_refused_in_one_line(cli.main, refused, "next to nothing of its blocks fits the recipe's model", capsys)


def test_a_head_is_taken_only_if_its_outputs_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("classify.toml", "--out", "one", "--set", "train.steps=1") == 0
    capsys.readouterr()
    assert train("classify.toml", "--out", "two", "--start", "one", "--set", "train.steps=1") == 0
    count = len(load_predictor("one/checkpoint").model.state_dict())
    assert f"{count} of the model's {count} tensors taken" in capsys.readouterr().err


def test_patience_and_minutes_go_with_predictors(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["train.patience=1", "train.eval_every=2", "train.steps=40", "optim.lr=1e-30", "optim.ssm_lr=1e-30"]
    assert train("classify.toml", "--out", "run", "--set", *settings) == 0
    assert "stopped early at step 4, best at step 2 of 40, error 0." in capsys.readouterr().err
    assert isinstance(load_any("run/best").config.task, TaskConfig)
    assert train("forecast.toml", "--out", "timed", "--set", "train.minutes=0.01", "train.eval_every=5") == 0
    assert "s a step, so " in capsys.readouterr().err


REFUSED = [
    (["train", "classify.toml", "--set", "data.dataset=wikitext-2"], 'does not go with task.kind = "classify"'),
    (
        ["train", "classify.toml", "--set", "task.kind=density"],
        'task.kind = "density" does not go with data.dataset = "la',
    ),
    (
        ["train", "forecast.toml", "--set", "data.dataset=mnist"],
        'does not go with task.kind = "forecast": expected csv:PLACE',
    ),
    (["train", "classify.toml", "--set", "task.window=3"], 'task.window = 3 goes with task.kind = "forecast"'),
    (
        ["train", "claims/pathfinder-6", "--set", "data.permuted=true"],
        "model.taps does not go with data.permuted = true, by which no pixel has its neighbours",
    ),
    (["train", "classify.toml", "--set", "train.chunk=9"], 'train.chunk = 9 goes with task.kind = "density"'),
    (
        ["train", "classify.toml", "--set", "data.grey=true"],
        "data.grey = true goes with cifar10, cifar10-mini, not with",
    ),
    (
        ["train", "classify.toml", "--set", "model.batch_norm=true"],
        "optim.ema_decay = 0.9 does not go with model.batch_n",
    ),
    (
        ["train", "classify.toml", "--set", "model.batch_norm=true", "optim.ema_decay=0", "train.accumulate=2"],
        "train.accumulate = 2 does not go with model.batch_norm = true",
    ),
    (["train", "forecast.toml", "--set", 'task.targets=["z"]'], "task.targets has z, which is none of the columns"),
    (["train", "classify.toml", "--start", "nowhere"], "no checkpoint at nowhere"),
    (["sample", "run/checkpoint"], "run/checkpoint is trained to classify, and is no density model"),
    (["convert", "run/checkpoint", "x"], "run/checkpoint is trained to classify, and is no density model"),
    (["bench", "run/checkpoint"], "run/checkpoint is trained to classify, and is no density model"),
    (["export", "run/checkpoint", "x", "--format", "onnx"], "is trained to classify, and is no density model"),
    (["predict", "mnist-small"], "mnist-small is a density model of images, and predicts nothing"),
    (["eval", "run/checkpoint", "--windows", "4"], "--windows is for density models, and run/checkpoint is none"),
    (["eval", "run/checkpoint", "--rate", "0.5"], "--rate is for audio, and run/checkpoint reads data of kind text"),
    (["eval", "run/checkpoint", "--keep-dt"], "--keep-dt is the control for another --rate; add one"),
    (["eval", "mnist-small", "--keep-dt"], "--keep-dt is the control for predictors of audio"),
    (["predict", "run/checkpoint", "none.txt"], "none.txt"),
    (
        ["predict", "run/checkpoint", "texts/train.txt", "--format", "csv"],
        "csv is no input of a model of text: expected text",
    ),
]


def test_what_does_not_go_together_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("classify.toml", "--out", "run", "--set", "train.steps=1", "train.eval_every=1") == 0
    capsys.readouterr()
    for arguments, message in REFUSED:
        assert_refused_in_one_line(cli.main, arguments, message, capsys)


def test_a_stream_of_a_trained_model_answers_as_the_whole_row_does() -> None:
    assert train("classify.toml", "--out", "run", "--set", "train.steps=3") == 0
    model = load_predictor("run/checkpoint").model
    stream, row = Stream(model), torch.randint(97, 99, (300,))
    for piece in row.split(17):
        stream.read(piece)
    with torch.no_grad():
        torch.testing.assert_close(stream.answer(), model.answer(row[None])[0], rtol=0, atol=1e-4)


def test_sound_is_read_at_another_rate_with_dt_rescaled_and_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("s4gen.train.examples", "s4gen.data.labelled.opening"):
        monkeypatch.setattr(f"{module}.open_examples", open_examples)  # real recordings, not toys
    chosen = ["data.dataset=fsdd-mini", "data.rate=1000", "data.validation=6", "data.tokenizer=word"]
    recipe = Path("sound.toml")
    recipe.write_text(CLASSIFY)
    assert train(str(recipe), "--out", "run", "--set", *chosen, "train.steps=2", "train.eval_every=2") == 0
    own = evaluated(capsys, "run/checkpoint")
    assert evaluated(capsys, "run/checkpoint", "--rate", "1")["cross_entropy"] == own["cross_entropy"]
    half = evaluated(capsys, "run/checkpoint", "--rate", "0.5")
    control = evaluated(capsys, "run/checkpoint", "--rate", "0.5", "--keep-dt")
    assert (half["rate"], half["dt_rescaled"], control["dt_rescaled"]) == (500, True, False)
    assert abs(half["cross_entropy"] - own["cross_entropy"]) < abs(control["cross_entropy"] - own["cross_entropy"])
    assert cli.main(["eval", "run/checkpoint", "--rate", "0.5"]) == 0
    assert "test at 500 Hz (every dt times 2): accuracy" in capsys.readouterr().out
    assert evaluated(capsys, "fsdd-digits", "--dataset", "fsdd-mini")["accuracy"] >= 0.9
    for arguments, message in (
        (
            ["eval", "fsdd-digits", "--dataset", "fsdd-mini", "--rate", "0.5"],
            "reads spectra of 8,000 samples per second",
        ),
        (["eval", "fsdd-digits"], "has no recipe that names a data set; name one with --dataset"),
        (["eval", "run/checkpoint", "--dataset", "mnist-mini"], "choose a fitting data set"),
        (["eval", "fsdd-digits", "--dataset", "fsdd-mini", "--mode", "recurrent"], "reads rows in both directions"),
    ):
        assert_refused_in_one_line(cli.main, arguments, message, capsys)
