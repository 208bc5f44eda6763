"""The command line end to end on a tiny checkpoint: results, refusals in one line, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from s4gen import cli
from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.cli.parser import verbs_of
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
    recipe_to_toml,
)
from s4gen.data import open_split, to_sequence
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.train import loop

MODEL = ModelConfig(d_model=8, n_layers=1, d_ff=0)
SSM = SSMConfig(d_state=4)
RECIPE = Recipe(
    MODEL,
    SSM,
    DataConfig("mnist-mini", validation=20),
    OptimConfig(),
    TrainConfig(steps=2, batch_size=2, eval_limit=2, n_samples=0),
)
SETTINGS = ["model.d_model=8", "model.n_layers=1", "model.d_ff=0", "ssm.d_state=4", "data.dataset=mnist-mini"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("saved") / "tiny"
    model = build_model(DensityConfig(ImageLayout(28, 28, 1), MODEL, SSM))
    save_checkpoint(path, model, recipe=RECIPE, metrics={"bits_per_dim": float("nan")}, card="A card")
    return path


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with nothing but the checkpoint `tiny`."""
    shutil.copytree(saved, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that the user can fix, and returns its one line without the beginning that all have."""

    def run(*argv: str) -> str:
        assert main(argv) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("s4gen: error: ")
        return line.removeprefix("s4gen: error: ")

    return run


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


# Start-up


def test_help_and_wrong_arguments_import_nothing_heavy() -> None:
    """One process is asked everything in turn: the first command after which something heavy is there is at fault."""
    asked = [["-h"], *([verb, "-h"] for verb in cli.VERBS), ["eval", "nowhere", "--limit", "0"]]
    program = f"""
import sys
from s4gen.cli import main
for argv in {asked!r}:
    main(argv)
    heavy = sorted(set(sys.modules) & {{"torch", "numpy", "PIL", "torchvision", "datasets", "matplotlib", "tqdm"}})
    if heavy:
        sys.exit(f"{{argv}} imported {{heavy}}")
print("all asked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all asked\n")


def test_help_of_every_verb_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        assert output(capsys, verb, "-h").startswith(f"usage: s4gen {verb} ")


def test_every_verb_that_writes_to_a_place_takes_o() -> None:
    """Whoever knows -o from one verb expects it of all."""
    for name, verb in verbs_of(cli.make_parser()).items():
        for action in verb._actions:
            assert ("--out" in action.option_strings) == ("-o" in action.option_strings), name


def test_python_m_s4gen_is_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "s4gen", "--version"], capture_output=True, text=True)
    assert done.stdout == output(capsys, "--version")
    assert done.stdout.startswith("s4gen ")


def test_a_dash_is_no_name_for_what_is_not_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "demo -o -",
        "train r -o -",
        "eval c -o -",
        "score c f --map -",
        "compress c f -o -",
        "report r -o -",
        "decompress c f -o -",
        "convert c -",
        "export c -",
        "import f -",
        "merge - p",
        "predict c --plot -",
        "bench c --plot -",
        "bench core -o -",
        "sample c --prompt-cache -",
    ):
        assert main(command.split()) == 2
        assert "-: this is not written to standard output; give it a name" in capsys.readouterr().err
    assert not Path("-").exists()


# Exit codes


def fake_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli.info, "run", run)


def test_a_user_error_of_many_lines_is_printed_as_one(refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_verb(monkeypatch, UserError("one\ntwo\n"))
    assert refusal("info", "x") == "one two"


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_verb(monkeypatch, RuntimeError("impossible"))
    assert main(["info", "x"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback ")
    assert printed.err.endswith("RuntimeError: impossible\n")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory."), RuntimeError("x: can't allocate memory: y")]
)
def test_running_out_of_memory_is_not_a_bug(error: Exception, refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_verb(monkeypatch, error)
    assert refusal("info", "x").startswith("out of memory: choose a smaller batch")


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_verb(monkeypatch, KeyboardInterrupt())
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "s4gen: interrupted\n"


@pytest.mark.parametrize("arguments", ["-h", "cache"])
def test_a_reader_that_leaves_early_is_no_error(arguments: str) -> None:
    """Unbuffered or not makes a difference: argparse itself ignores a closed pipe, if it notices."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "s4gen", *arguments.split()]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141 or arguments == "-h"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: VERB (see s4gen -h)"),
        (["evaluate"], "argument VERB: invalid choice: 'evaluate'"),
        (["eval"], "the following arguments are required: CHECKPOINT (see s4gen eval -h)"),
        (["eval", "tiny", "--modus", "conv"], "unrecognized arguments: --modus conv"),
        (["eval", "tiny", "--lim", "3"], "unrecognized arguments: --lim 3"),
        (["eval", "tiny", "--mode", "fast"], "argument --mode: invalid choice: 'fast'"),
        (["eval", "tiny", "--split", "dev"], "argument --split: invalid choice: 'dev'"),
        (["eval", "tiny", "--limit", "0"], "argument --limit: got 0, expected at least 1"),
        (["eval", "tiny", "--limit", "ten"], "argument --limit: got 'ten', expected a whole number"),
        (["eval", "tiny", "--batch", "0"], "argument --batch: got 0, expected at least 1"),
        (["convert", "tiny", "out", "--tolerance", "0"], "argument --tolerance: got '0', expected a number of nats"),
        (["convert", "tiny", "out", "--tolerance", "nan"], "argument --tolerance: got 'nan', expected a number"),
        (["convert", "tiny", "out", "--sequences", "0"], "argument --sequences: got 0, expected at least 1"),
        (["sample", "tiny"], "the following arguments are required: -o/--out"),
        (["sample", "tiny", "-o", "x", "-n", "0"], "argument -n/--count: got 0, expected at least 1"),
        (["sample", "tiny", "-o", "x", "--batch", "0"], "argument --batch: got 0, expected at least 1"),
        (["sample", "tiny", "-o", "x", "--seed", "-1"], "argument --seed: got -1, expected at least 0"),
        (["sample", "tiny", "-o", "x", "--temperature", "-1"], "argument --temperature: got '-1', expected a"),
        (["sample", "tiny", "-o", "x", "--temperature", "inf"], "argument --temperature: got 'inf', expected a number"),
        (["sample", "tiny", "-o", "x", "--top-k", "-1"], "argument --top-k: got -1, expected at least 0"),
        (["sample", "tiny", "-o", "x", "--top-p", "0"], "argument --top-p: got '0', expected a number greater than 0"),
        (["sample", "tiny", "-o", "x", "--top-p", "1.1"], "argument --top-p: got '1.1', expected a number greater"),
        (["sample", "tiny", "-o", "x", "--min-p", "2"], "argument --min-p: got '2', expected a number from 0 to 1"),
        (["sample", "tiny", "-o", "x", "--engine", "warp"], "argument --engine: invalid choice: 'warp'"),
        (["sample", "tiny", "-o", "x", "--prompt-rows", "3"], "--prompt-rows says how much of a given image is kept"),
        (["bench", "tiny", "--batch", "0"], "argument --batch: got 0, expected at least 1"),
        (["bench", "tiny", "--length", "0"], "argument --length: got 0, expected at least 1"),
        (["bench", "tiny", "--engine", "warp"], "argument --engine: invalid choice: 'warp'"),
        (["bench", "tiny", "--baseline", "rnn"], "argument --baseline: invalid choice: 'rnn'"),
        (["bench", "tiny", "--plot", "x.svg"], "x.svg: the plot is written as PNG"),
        (["train"], "train needs a RECIPE, or --resume DIR"),
        (["train", "nowhere.toml"], "no recipe at nowhere.toml"),
        (["train", "tiny/recipe.toml", "--set", "train.stepz=3"], "--set train.stepz=3: unknown key train.stepz;"),
        (["train", "tiny/recipe.toml", "--resume", "tiny", "--force"], "--resume tiny goes on in that folder:"),
        (["train", "--resume", "nowhere"], "cannot resume nowhere: there is no training run in it"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line(argv: list[str], message: str, refusal: Any, room: Path) -> None:
    before = sorted(room.rglob("*"))
    assert refusal(*argv).startswith(message)
    assert sorted(room.rglob("*")) == before


@pytest.mark.parametrize("verb", ["eval X", "convert X out", "sample X -o out", "bench X", "info X"])
def test_a_missing_or_damaged_checkpoint_is_one_line_for_every_verb(verb: str, refusal: Any, room: Path) -> None:
    missing = refusal(*verb.replace("X", "gone").split())
    assert missing.startswith(("no checkpoint at gone; ", "no checkpoint or model preset at gone; "))
    file = room / "tiny" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(*verb.replace("X", "tiny").split()).startswith("tiny/model.safetensors is damaged or truncated")
    config = room / "tiny" / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 7'))
    assert refusal(*verb.replace("X", "tiny").split()).startswith("tiny/config.json: checkpoint format version 7")
    assert os.listdir(room) == ["tiny"]


# eval


def test_eval_prints_the_exact_bits_of_the_first_images(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    result = json.loads(output(capsys, "eval", "tiny", "--limit", "7", "--batch", "3", "--json"))
    images = to_sequence(open_split("mnist-mini", "test").images[:7])
    with torch.no_grad():
        bits = -load_checkpoint("tiny").model.log_prob(images).double() / np.log(2) / 784
    assert result.pop("bits_per_dim") == pytest.approx(bits.mean().item(), rel=1e-6)
    assert result.pop("stderr") == pytest.approx(bits.std().item() / 7**0.5, rel=1e-3)
    assert result.pop("seconds") > 0
    assert result == {
        "n_sequences": 7,
        "length": 784,
        "mode": "conv",
        "split": "test",
        "dataset": "mnist-mini",
        "checkpoint": "tiny",
    }


def test_eval_agrees_in_both_modes(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    conv, recurrent = (
        json.loads(output(capsys, "eval", "tiny", "--limit", "3", "--json", "--mode", mode))
        for mode in ("conv", "recurrent")
    )
    assert (recurrent["mode"], recurrent["engine"]) == ("recurrent", "eager")
    assert recurrent["bits_per_dim"] == pytest.approx(conv["bits_per_dim"], abs=1e-5)


def test_eval_prints_a_line_for_people(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    (line,) = output(capsys, "eval", "tiny", "--limit", "2", "--split", "train").splitlines()
    assert line.startswith("tiny on mnist-mini train: ")
    assert " ± " in line
    assert "bits/dim (2 images, conv mode, " in line


def test_eval_of_one_image_is_valid_json(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    """The standard error of one image is NaN, which JSON does not have."""
    printed = output(capsys, "eval", "tiny", "--limit", "1", "--json")
    assert json.loads(printed, parse_constant=pytest.fail)["stderr"] is None


def test_eval_refuses_images_of_another_size(refusal: Any, room: Path) -> None:
    assert refusal("eval", "tiny", "--dataset", "cifar10-mini") == (
        "cifar10-mini has images of 32 x 32 x 3 with 256 levels, the model is for 28 x 28 x 1 with 256 levels: "
        "choose a fitting data set"
    )
    assert refusal("eval", "tiny", "--dataset", "minst").startswith("no data set called 'minst'")


def test_eval_without_data_and_network_says_how_to_get_it(refusal: Any, room: Path) -> None:
    line = refusal("eval", "tiny", "--dataset", "mnist")
    assert "connect to the network, or set S4GEN_DATA" in line


def test_eval_without_a_recipe_asks_for_the_data_set(
    refusal: Any, capsys: pytest.CaptureFixture[str], room: Path
) -> None:
    (room / "tiny" / "recipe.toml").unlink()
    assert refusal("eval", "tiny") == "tiny has no recipe that names a data set; name one with --dataset"
    output(capsys, "eval", "tiny", "--dataset", "mnist-mini", "--limit", "1")


# convert


def test_convert_prints_its_certificate_and_writes_a_checkpoint(
    capsys: pytest.CaptureFixture[str], refusal: Any, room: Path
) -> None:
    printed = output(capsys, "convert", "tiny", "out", "--sequences", "2")
    for words in ("2 sequences of 784 tokens (mnist-mini test)", "largest difference", "blocks.0.mixer", "out"):
        assert words in printed
    recurrent, conv = (
        json.loads(output(capsys, "eval", name, "--mode", mode, "--limit", "2", "--json"))["bits_per_dim"]
        for name, mode in (("out", "recurrent"), ("tiny", "conv"))
    )
    assert recurrent == pytest.approx(conv, abs=1e-5)
    assert refusal("convert", "tiny", "out").startswith("out exists; choose another name, or replace it with --force")
    output(capsys, "convert", "tiny", "out", "--sequences", "1", "--force")


def test_convert_refuses_to_replace_what_is_no_checkpoint(refusal: Any, room: Path) -> None:
    (room / "diary").write_text("dear diary")
    assert "is not a checkpoint, so it is not replaced" in refusal("convert", "tiny", "diary", "--force")
    assert (room / "diary").read_text() == "dear diary"


def test_convert_writes_nothing_above_the_tolerance(refusal: Any, room: Path) -> None:
    line = refusal("convert", "tiny", "out", "--tolerance", "1e-12", "--sequences", "1")
    assert "does not agree" in line
    assert "blocks.0.mixer" in line
    assert os.listdir(room) == ["tiny"]


# sample


def test_sample_writes_a_grid_that_the_seed_fixes(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    for name, seed, batch in (("a.png", "0", "64"), ("b.png", "0", "2"), ("c.png", "1", "64")):
        printed = output(capsys, "sample", "tiny", "-n", "3", "--seed", seed, "--batch", batch, "-o", name)
        assert printed.startswith(f"3 images in {name}\n")
        for unit in ("tokens/s", "images/s", "ms/step"):
            assert unit in printed
    a, b, c = (pixels(room / name) for name in ("a.png", "b.png", "c.png"))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_sample_writes_one_file_per_image_into_a_folder(
    capsys: pytest.CaptureFixture[str], refusal: Any, room: Path
) -> None:
    output(capsys, "sample", "tiny", "-n", "2", "-o", "new/folder", "--top-k", "1")
    assert sorted(os.listdir("new/folder")) == ["00000.png", "00001.png"]
    first, second = (pixels(room / "new/folder" / name) for name in ("00000.png", "00001.png"))
    assert first.shape == (28, 28)
    assert np.array_equal(first, second), "with --top-k 1 nothing is left to chance"
    assert refusal("sample", "tiny", "-o", "new/folder").startswith("new/folder exists")


def test_sample_completes_given_images(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    given = open_split("mnist-mini", "test").images[:2, ..., 0]
    for i, image in enumerate(given):
        Image.fromarray(image).save(f"{i}.png")
    output(capsys, "sample", "tiny", "-o", "files", "--prompt", "0.png", "1.png")
    output(capsys, "sample", "tiny", "-o", "test", "-n", "3", "--prompt", "test", "--prompt-rows", "20")
    output(capsys, "sample", "tiny", "-o", "turns", "-n", "3", "--prompt", "0.png", "1.png")
    assert sorted(os.listdir("files")) == ["00000.png", "00001.png"]
    assert sorted(os.listdir("test")) == ["00000.png", "00001.png", "00002.png"]
    for folder, rows in (("files", 14), ("test", 20), ("turns", 14)):
        for i in range(2):
            completed = pixels(room / folder / f"0000{i}.png")
            assert np.array_equal(completed[:rows], given[i][:rows])
            assert not np.array_equal(completed[rows:], given[i][rows:])
    third = pixels(room / "turns" / "00002.png")
    assert np.array_equal(third[:14], given[0][:14])
    assert not np.array_equal(third, pixels(room / "turns" / "00000.png"))


def test_sample_refuses_a_prompt_that_does_not_fit(refusal: Any, room: Path) -> None:
    Image.new("L", (27, 28)).save("narrow.png")
    Image.new("L", (28, 28)).save("fits.png")
    (room / "text.png").write_text("no image")
    assert refusal("sample", "tiny", "-o", "x.png", "--prompt", "narrow.png").startswith(
        "narrow.png is an image of 27 x 28 pixels"
    )
    for name in ("text.png", "gone.png"):
        assert refusal("sample", "tiny", "-o", "x.png", "--prompt", name).startswith(f"{name} cannot be read")
    message = refusal("sample", "tiny", "-o", "x.png", "--prompt", "fits.png", "--prompt-rows", "28")
    assert message == "--prompt-rows 28: the images have 28 rows, so keep at most 27"
    assert not (room / "x.png").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("here.png", "here.png exists; choose another name, or write over it with --force"),
        ("full", "full exists; choose another name, or write over it with --force"),
        ("x.jpg", "x.jpg: images are written as PNG"),
        ("folder.png", "folder.png is a folder; choose another name"),
        ("file", "file is a file; choose another name"),
        ("file/x.png", "cannot write file/x.png: file is a file"),
    ],
)
def test_sample_checks_its_output_before_any_work(out: str, message: str, refusal: Any, room: Path) -> None:
    """The checkpoint does not exist; that it is not asked for shows the order."""
    (room / "here.png").touch()
    (room / "file").touch()
    (room / "full").mkdir()
    (room / "full" / "x").touch()
    (room / "folder.png").mkdir()
    assert refusal("sample", "gone", "-o", out).startswith(message)


def test_sample_writes_over_what_is_there_only_with_force(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    (room / "x.png").write_text("old")
    (room / "full").mkdir()
    (room / "full" / "mine.txt").touch()
    for out in ("x.png", "full"):
        output(capsys, "sample", "tiny", "-n", "1", "-o", out, "--force")
    assert pixels(room / "x.png").ndim == 2
    assert sorted(os.listdir("full")) == ["00000.png", "mine.txt"], "nothing of the user's is deleted"


# train


def train_arguments(*more: str) -> list[str]:
    return ["train", "small.toml", "--set", *SETTINGS, "data.validation=4", "train.batch_size=2", *more]


def test_train_writes_a_checkpoint_that_the_other_verbs_read(
    capsys: pytest.CaptureFixture[str], refusal: Any, room: Path
) -> None:
    (room / "small.toml").write_text("[train]\nsteps = 2\nn_samples = 1\neval_limit = 2")
    output(capsys, *train_arguments())
    output(capsys, "eval", "runs/small/checkpoint", "--limit", "1")
    assert "train.steps" not in output(capsys, "info", "runs/small/checkpoint")
    assert refusal(*train_arguments()).startswith("runs/small exists; ")
    output(capsys, *train_arguments("--force"))
    line = refusal("train", "small.toml", "--resume", "runs/small")
    assert line.startswith("cannot resume runs/small with another recipe: leave out small.toml, since --resume ")
    output(capsys, "train", "--resume", "runs/small")
    hint = refusal("eval", "runs/small")
    assert hint.endswith("did you mean runs/small/checkpoint?")


def test_a_stopped_run_says_how_to_go_on_and_is_not_a_success(
    capsys: pytest.CaptureFixture[str], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (room / "small.toml").write_text(recipe_to_toml(RECIPE))
    step = loop.training_step

    def stopped(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", stopped)
        assert main(["train", "small.toml", "--out", "run"]) == 130
    assert "s4gen train --resume run" in capsys.readouterr().err
    assert output(capsys, "train", "--resume", "run") == ""
    assert json.loads((room / "run/checkpoint/metrics.json").read_text())["step"] == 2


# bench, demo and info: the glue; what they measure is tested beside them


def test_bench_prints_one_json_object_and_a_plot(
    capsys: pytest.CaptureFixture[str], refusal: Any, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4gen.bench import generation, plots

    calls: list[dict[str, Any]] = []

    class Result:
        rows: ClassVar = [SimpleNamespace(ms_per_step=1.0)]

        def to_dict(self) -> dict[str, Any]:
            return {"rows": [{"ms_per_step": float("nan")}]}

        def table(self) -> str:
            return "a table"

    def run(name: str, config: DensityConfig, **settings: Any) -> Result:
        calls.append({"name": name, "config": config, **settings})
        return Result()

    monkeypatch.setattr(generation, "run", run)
    monkeypatch.setattr(plots, "plot", lambda result: b"a plot")
    arguments = ["bench", "tiny", "--batch", "1", "8", "--length", "9", "16"]
    arguments += ["--engine", "eager", "native"]
    arguments += ["--baseline", "conv", "--plot", "p.png"]
    printed = output(capsys, *arguments, "--json")
    assert json.loads(printed, parse_constant=pytest.fail) == {"rows": [{"ms_per_step": None}]}
    assert (room / "p.png").read_bytes() == b"a plot"
    (call,) = calls
    assert call.pop("config") == load_checkpoint("tiny").config
    assert call == {
        "name": "tiny",
        "checkpoint": Path("tiny"),
        "batches": [1, 8],
        "lengths": [9, 16],
        "engines": ["eager", "native"],
        "baselines": ["conv"],
        "positions": (),
        "progress": True,
    }
    assert refusal(*arguments).startswith("p.png exists")
    assert output(capsys, *arguments, "--force") == "a table\n"
    Result.rows = [SimpleNamespace(ms_per_step=float("nan"), note=note) for note in ("no engine", "no engine", "died")]
    assert refusal(*arguments, "--force") == "nothing could be measured: no engine; died"


def test_bench_says_in_its_help_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    introduction = output(capsys, "bench", "-h").partition("positional arguments")[0]
    for name in ("CHECKPOINT|PRESET", "core", "ancestors"):
        (line,) = [line for line in introduction.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3
    assert output(capsys, "bench", "core", "-h").startswith("usage: s4gen bench core [-h] [--quick]")
    assert output(capsys, "bench", "ancestors", "-h").startswith("usage: s4gen bench ancestors [-h]")


@pytest.mark.parametrize("name", ["core", "ancestors"])
def test_a_checkpoint_may_have_the_name_of_a_benchmark(
    name: str, capsys: pytest.CaptureFixture[str], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4gen.bench import generation

    asked: list[object] = []

    def run(name: str, config: DensityConfig, **settings: Any) -> SimpleNamespace:
        asked.append((name, settings["checkpoint"]))
        return SimpleNamespace(rows=[SimpleNamespace(ms_per_step=1.0)], table=lambda: "a table")

    monkeypatch.setattr(generation, "run", run)
    (room / "tiny").rename(room / name)
    assert output(capsys, "bench", f"./{name}", "--batch", "1") == "a table\n"
    assert asked == [(f"./{name}", Path(name))]


def test_bench_measures_a_preset_that_has_a_layout(refusal: Any, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s4gen.cli.bench import find_model

    preset = "[model]\nd_model = 8\n[layout]\nheight = 2\nwidth = 3\nchannels = 1\n"
    (room / "preset.toml").write_text(preset)
    config = DensityConfig(ImageLayout(2, 3, 1), ModelConfig(d_model=8), SSMConfig())
    assert find_model("preset.toml") == (config, None)
    (room / "preset.toml").write_text("[model]\nd_model = 8\n")
    assert refusal("bench", "preset.toml").startswith("preset.toml says nothing of the sequences: add a [layout]")


def test_info_counts_parameters_and_state(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    facts = json.loads(output(capsys, "info", "tiny", "--json"), parse_constant=pytest.fail)
    model = load_checkpoint("tiny").model
    parts = facts["parameters"]
    assert parts.pop("total") == sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["head"] == 8 * 256 + 256
    assert facts["state"]["bytes_per_sequence"] == 8 * 4 * 4 + 8, "one layer of floats, and the place"
    assert facts["metrics"] == {"bits_per_dim": None}
    printed = output(capsys, "info", "tiny")
    for words in ("mixer", "s4d", "bytes_per_sequence", "mnist-mini"):
        assert words in printed


def test_a_file_of_a_checkpoint_is_not_taken_for_a_preset(refusal: Any, room: Path) -> None:
    assert "is not a checkpoint: expected a folder" in refusal("info", "tiny/model.safetensors")


def test_upper_halves_are_read_once(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    command = ["sample", "tiny", "-n", "3", "--prompt", "test", "--prompt-rows", "27", "--engine", "eager", "-o"]
    output(capsys, *command, "plain")
    for name in ("first", "second"):
        output(capsys, *command, name, "--prompt-cache", "kept")
        for number in range(3):
            assert np.array_equal(pixels(room / name / f"0000{number}.png"), pixels(room / f"plain/0000{number}.png"))
        assert len([*(room / "kept").iterdir()]) == 6, "each image at 512 values, and at its end"


def test_checkpoints_of_whole_pixels_go_through_the_verbs(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    settings: dict[str, Any] = {"taps": True, "scan": ("row", "column"), "head": "mixture", "components": 2}
    model = ModelConfig(d_model=8, n_layers=2, d_ff=0, whole_pixels=True, neighbourhood=1, **settings)
    built = build_model(DensityConfig(ImageLayout(28, 28, 1), model, replace(SSM, init="lin")))
    save_checkpoint(room / "pixels", built, recipe=replace(RECIPE, model=model), metrics={}, card="A card")
    facts = json.loads(output(capsys, "info", "pixels", "--json"))
    history, kept = 28 + 3, 2 * 3 + 1
    features = 2 * (29 * 8) + (1 + 28) * 8 * 4  # of the taps; of the layers along rows and down columns
    places = 8 + 2 * 2 * 8
    assert facts["state"]["bytes_per_sequence"] == places + 8 * (history - 1) + 4 * (kept + features)
    both = [
        json.loads(output(capsys, "eval", "pixels", "--limit", "1", "--json", *more))["bits_per_dim"]
        for more in ([], ["--mode", "recurrent", "--engine", "auto"])
    ]
    assert both[0] == pytest.approx(both[1], abs=1e-4)
    output(capsys, "sample", "pixels", "-o", "images", "-n", "1", "--prompt", "test")
    given = open_split("mnist-mini", "test").images[0, ..., 0]
    assert np.array_equal(pixels(room / "images" / "00000.png")[:14], given[:14])


def test_info_of_a_preset_needs_no_checkpoint(capsys: pytest.CaptureFixture[str], room: Path) -> None:
    preset = '[model]\nmixer = "attention"\nd_model = 8\nn_heads = 2\nn_layers = 3\n'
    (room / "preset.toml").write_text(preset + "[layout]\nheight = 2\nwidth = 3\nchannels = 1\n")
    facts = json.loads(output(capsys, "info", "preset.toml", "--json"))
    assert facts["state"]["bytes_per_sequence"] == 3 * 2 * 6 * 8 * 4 + 8, "keys and values of six tokens"
    assert "ssm" not in facts
    # Three layers of queries, keys, values, output and feed-forward, the scores of six tokens, and the head.
    per_token = 3 * (2 * 4 * 8 * 8 + 2 * 2 * 8 * 256 + 2 * 2 * 6 * 8) + 2 * 8 * 256
    assert facts["flops"] == {
        "forward_per_token": per_token,
        "forward_per_image": 6 * per_token,
        "training_step_per_image": 3 * 6 * per_token,
    }
    assert facts["memory"]["bytes_of_weights"] == 4 * facts["parameters"]["total"]


def test_a_preset_that_fits_into_no_memory_is_counted_and_not_measured(
    capsys: pytest.CaptureFixture[str], refusal: Any, room: Path
) -> None:
    preset = "[model]\nd_model = 1000000\n[layout]\nheight = 2\nwidth = 3\nchannels = 1\n"
    (room / "huge.toml").write_text(preset)
    facts = json.loads(output(capsys, "info", "huge.toml", "--json"))
    assert facts["memory"]["bytes_of_weights"] > 10**13
    assert re.fullmatch(
        r"measuring huge.toml needs about [\d,.]+ GB, and there are [\d.]+ [GM]B of available memory: choose a smaller "
        r"model",
        refusal("bench", "huge.toml").removesuffix("\n"),
    )


def test_demo_is_run_in_the_folder_that_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4gen import demo

    folders: list[Path] = []
    monkeypatch.setattr(demo, "run", folders.append)
    output(capsys, "demo")
    output(capsys, "demo", "--out", "elsewhere")
    assert folders == [Path("runs/demo"), Path("elsewhere")]


def test_ctrl_c_in_the_shell_ends_with_130(room: Path) -> None:
    """A real SIGINT while it works."""
    code = "import os, signal, sys\nfrom s4gen import cli\n"
    code += "def run(args):\n    os.kill(os.getpid(), signal.SIGINT)\n    import time; time.sleep(10)\n"
    code += "cli.info.run = run\nsys.exit(cli.main(['info', 'tiny']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "s4gen: interrupted\n")
