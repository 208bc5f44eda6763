"""Exported models draw what the model draws: as a step under other programs, and as C++ without Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engines import model_of
from test_import import MODELS, written

from s4gen.checkpoint import save_checkpoint
from s4gen.cli import main
from s4gen.compiling.compiler import find_compiler
from s4gen.config import AudioLayout, DensityConfig, ModelConfig, SSMConfig, TextLayout
from s4gen.data.text import ByteTokenizer
from s4gen.errors import UserError
from s4gen.exporting import programs
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.convert import convert
from s4gen.sampling.converted import load_recurrent
from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import generate

SMALL = SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5)


def text_model() -> DensityModel:
    return build_model(DensityConfig(TextLayout(257, 256), ModelConfig("h3", 8, 1, d_ff=8, cutoffs=(20,)), SMALL))


def sound_model() -> DensityModel:
    model = ModelConfig("s4", 4, 1, d_ff=4, pool=(2, 2))
    return build_model(DensityConfig(AudioLayout(100, bits=4, classes=("a", "b")), model, SMALL))


def shaken(model: DensityModel) -> DensityModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


KINDS = {"image": lambda: model_of("s4d"), "text": text_model, "sound": sound_model}


def saved(model: DensityModel, folder: Path) -> str:
    tokenizer = ByteTokenizer() if isinstance(model.config.layout, TextLayout) else None
    save_checkpoint(folder / "model", model, recipe=None, metrics={}, card="A card", tokenizer=tokenizer)
    return str(folder / "model")


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("text", "torch"),
        *(pytest.param(kind, "torch", marks=pytest.mark.slow) for kind in ("image", "sound")),
        *(pytest.param(kind, "onnx", marks=pytest.mark.slow) for kind in KINDS),
    ],
)
@pytest.mark.filterwarnings("ignore")  # the exporters' warnings differ from version to version
def test_the_exported_step_is_the_model_s_own(kind: str, form: str, tmp_path: Path) -> None:
    """Greedy tokens and log-probabilities agree for one row and for two, and generate.py draws the same tokens."""
    if form == "onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    recurrent = convert(shaken(KINDS[kind]()))
    write = programs.write_onnx if form == "onnx" else programs.write_torch
    found = write(recurrent, tmp_path)
    assert found is not None
    assert found.greedy_tokens == programs.CHECKED and found.difference <= programs.TOLERANCE
    blocked = "import sys, runpy; sys.modules['s4gen'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", blocked, str(tmp_path / "generate.py"), "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    token, state, drawn = torch.full((1,), recurrent.bos), recurrent.initial_state(1), []
    with torch.no_grad():
        for _ in range(12):
            logits, state = recurrent.step(token, state)
            token = logits.argmax(-1)
            drawn.append(token.item())
    assert [int(word) for word in done.stdout.split()] == drawn


@pytest.mark.filterwarnings("ignore")
def test_an_exported_step_that_is_another_model_is_refused(tmp_path: Path) -> None:
    """The check compares with the model that was to be exported, not with the exported one."""
    recurrent, other = convert(shaken(KINDS["image"]())), convert(shaken(shaken(KINDS["image"]())))
    program, step, _ = programs.exported(other)
    module = program.module()

    def run(token: torch.Tensor, state: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        log_p, *new = module(token, *state)
        return log_p, new

    with pytest.raises(UserError, match="is not the model's"):
        programs.check(recurrent, step, run)


def compiled(checkpoint: str, folder: Path) -> Path:
    """Export and compile the program without Python, which takes many seconds; return its folder."""
    try:
        find_compiler()
    except NativeUnavailable:
        pytest.skip("no C++ compiler")
    if shutil.which("make") is None:
        pytest.skip("no make")
    assert main(["export", checkpoint, str(folder / "out"), "--format", "native"]) == 0
    subprocess.run(["make", "-s"], cwd=folder / "out", check=True, capture_output=True)
    return folder / "out"


@pytest.fixture(scope="module")
def program_of_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return a checkpoint and the folder of its program, which is compiled once for all tests of `make test`."""
    folder = tmp_path_factory.mktemp("program")
    checkpoint = saved(shaken(KINDS["image"]()), folder)
    return checkpoint, compiled(checkpoint, folder)


def assert_draws_what_sample_draws(checkpoint: str, folder: Path) -> None:
    """Check that program and `generate` draw the same tokens from a seed, with and without filters."""
    recurrent = load_recurrent(checkpoint)
    length = min(recurrent.config.layout.length, 40)
    for options, arguments in (({}, []), ({"temperature": 0.7, "top_k": 3, "top_p": 0.9}, ["0.7", "3", "0.9"])):
        command = ["./generate", "3", str(length), "5", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        drawn = torch.tensor([[int(word) for word in line.split()] for line in done.stdout.splitlines()])
        assert torch.equal(
            drawn, generate(recurrent, n=3, seed=5, engine="native", filters=Filters(**options))[:, :length]
        )


def test_the_program_without_python_draws_what_sample_draws(program_of_images: tuple[str, Path]) -> None:
    assert_draws_what_sample_draws(*program_of_images)


# Each compiles the whole engine again.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "sound", "imported"])
def test_the_program_without_python_draws_what_sample_draws_of_every_kind(kind: str, tmp_path: Path) -> None:
    """The imported one is a SaShiMi with scalar norms."""
    if kind == "imported":
        checkpoint = str(tmp_path / "model")
        weights, config = written(MODELS["SaShiMi, v3, post-norm"], tmp_path)
        assert main(["import", str(weights), checkpoint, "--config", str(config)]) == 0
    else:
        checkpoint = saved(shaken(KINDS[kind]()), tmp_path)
    assert_draws_what_sample_draws(checkpoint, compiled(checkpoint, tmp_path))


def test_the_folder_says_what_a_program_needs_to_know(tmp_path: Path) -> None:
    programs.write_torch(convert(shaken(sound_model())), tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    assert (about["start"], about["vocab"], about["kind"]) == (16, 16, "audio")
    names = [state["name"] for state in about["state"]]
    assert names[0] == "position" and "label" in names and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "out", "--format", "torch"], "no checkpoint"),
        (["model", "out.onnx", "--format", "onnx"], "a folder is written"),
        (["model", "model", "--format", "torch"], "exists and is not empty"),
        (["model", "out", "--format", "tflite"], "invalid choice"),
        (["attention", "out", "--format", "torch"], "no fixed set of tensors"),
        (["attention", "out", "--format", "native"], "does not run this model"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(KINDS["image"](), tmp_path)
    save_checkpoint(tmp_path / "attention", model_of("attention"), recipe=None, metrics={}, card="A card")
    assert main(["export", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err


def test_the_program_without_python_refuses_what_makes_no_sense(
    program_of_images: tuple[str, Path], tmp_path: Path
) -> None:
    """It prints one line and the usage and exits with 2; lost output is an error. It finds its plan from any folder."""
    shutil.copytree(program_of_images[1], tmp_path / "out")
    program = str(tmp_path / "out" / "generate")
    for words in (["-1"], ["1", "abc"], ["1", "0"], ["-h"], ["1e6", "1e6"], ["1", "5", "0", "-1"], ["1"] * 9):
        done = subprocess.run([program, *words], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "usage: ./generate [SEQUENCES]" in done.stderr
    assert subprocess.run([program, "1", "3"], cwd="/", capture_output=True).returncode == 0
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            assert subprocess.run([program, "1", "3"], stdout=full, stderr=subprocess.DEVNULL).returncode == 1
    (tmp_path / "out" / "plan.bin").unlink()
    assert "plan.bin is not there" in subprocess.run([program], capture_output=True, text=True).stderr
