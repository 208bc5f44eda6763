"""Runs that begin from a checkpoint, that are lengthened, and that must be alone in their folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import stop_after
from refusals import assert_refused_in_one_line

from s4gen.checkpoint import load_checkpoint, save_tensors
from s4gen.cli import main
from s4gen.config import DataConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TrainConfig, kind_of, recipe_to_toml
from s4gen.errors import UserError
from s4gen.train import run
from s4gen.train.exclusive import only_writer
from s4gen.train.metrics import read_metrics

Capture = pytest.CaptureFixture[str]


def recipe(dataset: str = "mnist-mini", data: dict[str, Any] | None = None, **train: Any) -> Recipe:
    held_out = {} if kind_of(dataset) == "text" else {"validation": 3}
    settings = {
        "steps": 4,
        "precision": "fp32",
        "batch_size": 4,
        "log_every": 1,
        "eval_every": 4,
        "eval_limit": 3,
        "save_every": 2,
    }
    return Recipe(
        ModelConfig(d_model=8, n_layers=1, d_ff=8),
        SSMConfig(d_state=4),
        DataConfig(dataset, **{**held_out, **(data or {})}),
        OptimConfig(warmup_steps=2),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint").model.state_dict()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    run(recipe(), folder, progress=False)
    return folder


# Beginning from a checkpoint


def test_a_run_begins_with_the_weights_of_the_checkpoint(done: Path, tmp_path: Path, capsys: Capture) -> None:
    """With learning rates of nearly zero, it ends with them, too; so does the running mean."""
    still = dataclasses.replace(recipe(steps=1), optim=OptimConfig(lr=1e-12, ssm_lr=1e-12, warmup_steps=2))
    for start in (done, done / "checkpoint"):
        out = tmp_path / start.name
        run(still, out, start=start, progress=False)
        for name, tensor in weights(out).items():
            torch.testing.assert_close(tensor, weights(done)[name], atol=1e-6, rtol=0, msg=name)
        line, _ = capsys.readouterr().err.splitlines()
        assert line == f"s4gen: --start {done / 'checkpoint'}: 24 of the model's 24 tensors taken"


def test_what_does_not_fit_is_listed_and_begins_anew(done: Path, tmp_path: Path, capsys: Capture) -> None:
    other = dataclasses.replace(recipe("cifar10-mini", steps=1), ssm=SSMConfig(d_state=4, decay="softplus"))
    run(other, tmp_path / "run", start=done, progress=False)
    said = capsys.readouterr().err
    assert "--start: the sequences differ: height was 28, is 32; width was 28, is 32; channels was 1, is 3" in said
    assert (
        "initialised anew, because the checkpoint has no tensor of this name and shape: embedding.channel.weight, "
        in said
    )
    assert "settings changed that give these weights another meaning: decay was 'exp', is 'softplus'" in said
    assert weights(tmp_path / "run")["embedding.row.weight"].shape == (32, 8)


def test_classes_of_other_names_are_not_taken_over(tmp_path: Path, capsys: Capture) -> None:
    for name, dataset in (("digits", "mnist-mini"), ("things", "cifar10-mini"), ("again", "mnist-mini")):
        start = tmp_path / "digits" if name != "digits" else None
        run(recipe(dataset, {"labels": True}, steps=1), tmp_path / name, start=start, progress=False)
        listed = "embedding.label.weight" in capsys.readouterr().err
        assert listed == (name == "things"), "both have ten classes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": ModelConfig(d_model=12, n_layers=1, d_ff=8)},
            "next to nothing of its blocks fits .* d_model was 8, is 12",
        ),
        (
            {"data": DataConfig("fsdd-mini", validation=3)},
            "is a model of images, and the recipe is for sound: choose",
        ),
        ({"data": DataConfig("wikitext-mini")}, "is a model of images, and the recipe is for text: choose"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: dict[str, Any], message: str, done: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(recipe(), **change), tmp_path / "run", start=done, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_from_a_language_model_has_its_tokeniser(tmp_path: Path, capsys: Capture) -> None:
    text = {"tokenizer": "word", "vocab_size": 50}
    words = dataclasses.replace(recipe("wikitext-mini", steps=1, chunk=8), data=DataConfig("wikitext-mini", **text))
    run(words, tmp_path / "first", progress=False)
    (tmp_path / "mine.txt").write_text("other words altogether\n" * 100)
    mine = DataConfig(str(tmp_path / "mine.txt"))
    run(dataclasses.replace(words, data=mine), tmp_path / "second", start=tmp_path / "first", progress=False)
    for name in ("first", "second"):
        assert load_checkpoint(tmp_path / name / "checkpoint").tokenizer().vocab == 50
    assert "tokeniser of " in capsys.readouterr().err
    for other, wanted in (
        (DataConfig("wikitext-mini", tokenizer="bytes"), "asks for bytes: set data.tokenizer=word$"),
        (DataConfig("wikitext-mini", vocab_size=60), "asks for word with 60: set data.tokenizer=word$"),
    ):
        with pytest.raises(UserError, match=wanted):
            run(dataclasses.replace(words, data=other), tmp_path / "x", start=tmp_path / "first", progress=False)


def test_start_and_resume_do_not_go_together(done: Path, capsys: Capture) -> None:
    arguments = ["train", "--resume", str(done), "--start", str(done)]
    assert_refused_in_one_line(main, arguments, "leave out --out and --force and --start", capsys)
    missing = ["train", "mnist-small", "--start", "nowhere", "--set", "data.dataset=mnist-mini"]
    assert_refused_in_one_line(main, [*missing, "--out", "/nowhere/x"], "nowhere", capsys)


# Lengthening


def test_a_finished_run_is_lengthened_and_says_what_becomes_of_the_learning_rate(
    tmp_path: Path, capsys: Capture
) -> None:
    run(recipe(), tmp_path / "run", progress=False)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run" / "checkpoint"), "--set", "train.steps=8"]) == 0
    said = capsys.readouterr().err
    assert "s4gen: 8 steps instead of 4: the learning rate follows the cosine of the new length, so at step 4 " in said
    assert "it goes from 0% of its peak to 75%, and to zero at step 8" in said
    rows = [row for row in read_metrics(tmp_path / "run") if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[4]["lr"] == pytest.approx(0.75 * OptimConfig().lr, rel=1e-2)
    recorded = load_checkpoint(tmp_path / "run" / "checkpoint").recipe
    assert recorded is not None
    assert recorded.train.steps == 8
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0, "and there is nothing left to do"


def test_a_lengthened_run_that_dies_goes_on_to_its_new_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe(), tmp_path / "run", progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 4, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(None, tmp_path / "run", resume=True, steps=7, progress=False)
    run(None, tmp_path / "run", resume=True, progress=False)
    assert json.loads((tmp_path / "run/checkpoint/training.json").read_text())["step"] == 7


def test_what_has_been_done_cannot_be_undone(done: Path, capsys: Capture) -> None:
    for steps in ("4", "3"):
        if steps == "3":
            arguments = ["train", "--resume", str(done), "--set", f"train.steps={steps}"]
            assert_refused_in_one_line(main, arguments, "has already taken 4; ask for more", capsys)
    arguments = ["train", "--resume", str(done), "--set", "train.steps=9", "optim.lr=1"]
    assert_refused_in_one_line(main, arguments, "with another recipe: optim.lr was 0.004, is 1.0; leave out", capsys)


@pytest.mark.parametrize("damage", ["missing", "integers", "no random state", "no JSON"])
def test_a_damaged_state_of_a_run_is_one_sentence(damage: str, tmp_path: Path) -> None:
    run(recipe(steps=2), tmp_path / "run", progress=False)
    folder = tmp_path / "run" / "checkpoint"
    tensors = {name: tensor.clone() for name, tensor in torch_file(folder / "training.safetensors").items()}
    name = next(name for name in tensors if name.startswith("weights."))
    if damage == "missing":
        del tensors[name]
    elif damage == "integers":
        tensors[name] = tensors[name].long()
    elif damage == "no random state":
        del tensors["rng.cpu"]
    else:
        (folder / "training.json").write_text("{")
    save_tensors(folder / "training.safetensors", tensors)
    with pytest.raises(UserError):
        run(None, tmp_path / "run", resume=True, progress=False)


def torch_file(path: Path) -> dict[str, torch.Tensor]:
    from s4gen.checkpoint import load_tensors

    return load_tensors(path)


# Two writers (row 9)


def _hold(out: Path, ready: Any) -> None:
    with only_writer(out, make=True):
        ready.set()
        signal.pause()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # of Python 3.12 and later
def test_a_second_writer_is_refused_until_the_first_is_gone_however_it_died(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run(recipe(steps=2), out, progress=False)
    capsys.readouterr()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(out, ready))
    other.start()
    try:
        assert ready.wait(60)
        for settings in ({"overwrite": True}, {"resume": True, "steps": 5}):
            with pytest.raises(
                UserError, match=rf"^another run is writing to {out}: wait until it ends, or choose another"
            ):
                run(None if "resume" in settings else recipe(), out, progress=False, **settings)
        (tmp_path / "link").symlink_to(out)
        (tmp_path / "above").symlink_to(tmp_path)
        monkeypatch.chdir(out)
        for name in (str(out), ".", "../run", f"{tmp_path}/link", f"{tmp_path}/above/run/", "../above/link/checkpoint"):
            assert_refused_in_one_line(main, ["train", "--resume", name], "another run is writing to", capsys)
            arguments = ["train", "mnist-small", "--set", "data.dataset=mnist-mini", "--force", "--out", name]
            if not name.endswith("checkpoint"):  # which is another folder, with a run of its own
                assert_refused_in_one_line(main, arguments, "another run is writing to", capsys)
    finally:
        other.kill()
        other.join()
    run(None, out, resume=True, steps=3, progress=False)
    steps = [row["step"] for row in read_metrics(out) if row["split"] == "train"]
    assert steps == [1, 2, 3]


def test_who_is_refused_removes_no_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first made the folder and has not written anything yet; the second has seen that it was missing."""
    out = tmp_path / "run"
    real = Path.mkdir
    holder = contextlib.ExitStack()

    def overtaken(self: Path, *arguments: Any, **settings: Any) -> None:
        monkeypatch.undo()
        real(self, *arguments, **settings)
        holder.enter_context(only_writer(out, make=False))

    with holder:
        monkeypatch.setattr(Path, "mkdir", overtaken)
        with pytest.raises(UserError, match="another run is writing"):
            run(recipe(steps=2), out, progress=False)
        assert out.is_dir()


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.validation = 5000"):
        run(recipe(data={"validation": 5000}), tmp_path / "new" / "run", progress=False)
    assert not (tmp_path / "new").exists()


def test_no_evaluation_goes_with_text_and_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("a b c\n" * 100)
    alone = recipe(f"{tmp_path}/text", {"validation": 0, "tokenizer": "bytes"}, steps=2, chunk=8)
    run(alone, tmp_path / "run", progress=False)
    assert "validation = 0" in recipe_to_toml(alone)
    assert {row["split"] for row in read_metrics(tmp_path / "run")} == {"train"}
    run(None, tmp_path / "run", resume=True, steps=3, progress=False)
