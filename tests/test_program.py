"""The program among others: its streams, Ctrl-C, the environment, its cache, Python without docstrings."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import running
from refusals import assert_refused_in_one_line
from tiny_predictor import config_of, predictor

from s4gen import cli
from s4gen.checkpoint import save_checkpoint
from s4gen.cli import main
from s4gen.cli.sample_text import decoded, read_prompts, unescaped
from s4gen.compiling import loading
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
from s4gen.data.store import data_folder
from s4gen.data.text import ByteTokenizer, token_file
from s4gen.errors import UserError
from s4gen.files import folders
from s4gen.files.folders import cache_folder, user_path
from s4gen.models.build import build_model
from s4gen.sampling.convert import convert
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import generate

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parent.parent


def program(command: str, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A shell command in which `s4gen` is the program."""
    line = command.replace("s4gen", f"{sys.executable} {' '.join(options)} -m s4gen")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model, ssm = ModelConfig(d_model=8, n_layers=1, d_ff=0), SSMConfig(d_state=4)
    recipe = Recipe(model, ssm, DataConfig("mnist-mini"), OptimConfig(), TrainConfig())
    built = build_model(DensityConfig(ImageLayout(28, 28, 1), model, ssm))
    save_checkpoint(path := tmp_path_factory.mktemp("saved") / "tiny", built, recipe=recipe, metrics={}, card="")
    return path


# Encodings (row 2)


def test_a_result_is_shown_in_ascii(tiny: Path) -> None:
    command = [sys.executable, "-m", "s4gen", "eval", str(tiny), "--limit", "2"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert b" ? " in done.stdout


@pytest.mark.parametrize(("encoding", "sign"), [("ascii", b"?"), ("cp1252", b"\xb1"), ("utf-8", b"\xc2\xb1")])
def test_a_result_is_shown_in_any_encoding(
    encoding: str, sign: bytes, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, in a stream of this process that is as strict as Python's own."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    assert main(["eval", str(tiny), "--limit", "2"]) == 0
    assert b" " + sign + b" " in shown.getvalue()


def test_text_and_names_of_files_are_shown_in_any_locale(tmp_path: Path) -> None:
    """Under the C locale, without the exception that Python makes for it, and with a name that is not UTF-8."""
    cache = os.fsencode(tmp_path) + b"/\xff\xc3\xbc"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "s4gen", "cache"]
    for settings in (environment, {}):
        done = subprocess.run(
            command, capture_output=True, cwd=ROOT, env={**os.environ, **settings, "S4GEN_CACHE": os.fsdecode(cache)}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(b"0.0 MB (S4GEN_CACHE names another folder)\n")


# Standard output (row 15)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("s4gen cache > /dev/full", 2, "standard output"),
        ("s4gen cache --json > /dev/full", 2, "standard output"),
        ("s4gen -h > /dev/full", 2, "standard output"),
        ("s4gen cache >&-", 2, "standard output cannot be written to (it is closed), so the result is lost"),
        ("s4gen --version >&-", 2, "standard output"),
        ("s4gen cache 2>&-", 0, ""),
        ("s4gen nonsense 2>&-", 2, ""),
        ("s4gen nonsense 2>/dev/full", 2, ""),
        ("s4gen cache >&- 2>&- <&-", 2, ""),
        ("s4gen cache | true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_output_that_cannot_be_written_to_is_one_line(command: str, code: int, said: str, buffered: str) -> None:
    if "true;" in command:
        command = command.replace("s4gen", "sleep 0.3; s4gen")
    done = program(command, PYTHONUNBUFFERED=buffered)
    assert (done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr) == (code, False, False)
    if said:
        (line,) = done.stderr.splitlines()
        assert line.startswith("s4gen: error: ")
        assert said in line
    else:
        assert done.stderr == ""


# Ctrl-C (row 19)


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.4])
def test_ctrl_c_at_the_start_is_one_line(delay: float, tiny: Path) -> None:
    """From the program's first line on; what happens before it is up to Python."""
    code = """
import signal, sys
from s4gen.__main__ import program

def tell(*handler):
    signal.signal = set_handler
    set_handler(*handler)
    print(flush=True)

set_handler, signal.signal = signal.signal, tell
sys.argv = ["s4gen", "eval", sys.argv[1], "--mode", "recurrent"]
sys.exit(program())
"""
    with running([sys.executable, "-c", code, tiny], cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert [line for line in said.splitlines() if "scoring" not in line] == ["s4gen: interrupted"]


def test_an_interrupt_that_a_module_swallows_while_it_is_loaded_still_ends_the_program(tmp_path: Path) -> None:
    """As torch does now and then."""
    (tmp_path / "greedy.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    code = """
import sys
from s4gen.__main__ import program
from s4gen.cli import info

def run(args):
    import greedy
    return 0

info.run = run
sys.argv = ["s4gen", "info", "x"]
sys.exit(program())
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (130, "s4gen: interrupted\n")


def test_an_interrupt_that_a_module_turns_into_an_import_error_is_one(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy does while it is loaded."""

    def run(args: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to load") from None
        return 0

    monkeypatch.setattr(cli.info, "run", run)
    assert main(["info", "x"]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capsys.readouterr().err == "s4gen: interrupted\n"


LOADING = {
    "eval": ["eval", "tiny", "--limit", "1"],
    "sample": ["sample", "tiny", "-n", "1", "-o", "x.png", "--engine", "eager"],
    "predict": ["predict", "reader", "given.txt"],
    "bench": ["bench", "tiny", "--engine", "eager", "--batch", "1"],
    "info": ["info", "tiny"],
    "convert": ["convert", "tiny", "converted", "--dataset", "mnist-mini"],
    "train": ["train", "recipe.toml", "--out", "run"],
}
RECIPE = """
[model]
mixer = "s4d"
d_model = 8
n_layers = 1
d_ff = 0
[data]
dataset = "mnist-mini"
[train]
steps = 1
"""


@pytest.mark.parametrize("verb", LOADING)
def test_ctrl_c_while_files_are_read_is_one_line(
    verb: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The n-th file that a command opens is opened and then Ctrl-C is pressed, for the first two."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").symlink_to(tiny)
    Path("recipe.toml").write_text(RECIPE)
    Path("given.txt").write_text("some text")
    save_checkpoint(
        "reader", predictor(config_of("text")).float(), recipe=None, metrics={}, card="", tokenizer=ByteTokenizer()
    )
    open_files = len(os.listdir("/proc/self/fd"))
    for number in range(1 if verb == "train" else 2):  # a training that has begun would be saved
        left = iter([False] * number)

        def opened(descriptor: int, blocking: bool, left: Iterator[bool] = left) -> None:
            if next(left, True):
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(os, "set_blocking", opened)
            assert main(LOADING[verb]) == 130
        assert capsys.readouterr().err == "s4gen: interrupted\n"
        assert len(os.listdir("/proc/self/fd")) == open_files
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sorted(os.listdir()) == ["given.txt", "reader", "recipe.toml", "tiny"]


def test_ctrl_c_while_an_error_is_reported_is_no_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(message: str) -> int:
        signal.raise_signal(signal.SIGINT)
        return 2

    monkeypatch.setattr(cli, "_report", report)
    assert main(["info", "no such model"]) == 130
    assert capsys.readouterr().err == "s4gen: interrupted\n"


# Without docstrings (row 16)


def test_help_needs_no_docstrings() -> None:
    code = "import sys; from s4gen.cli import VERBS, main\n"
    code += "sys.exit(sum(main([*verb, '-h']) for verb in [[], *([v] for v in VERBS)]))"
    for options in ("-OO", "-O"):
        done = subprocess.run([sys.executable, options, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("usage: s4gen") == len(cli.VERBS) + 1
    assert all(verb.SUMMARY in done.stdout.replace("\n", " ").replace("  ", " ") for verb in [cli.cache])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["info", "eval --limit 1", "sample -n 1 -o x.png", "convert --sequences 1 out"])
def test_every_verb_works_without_docstrings_and_assertions(verb: str, tiny: Path, tmp_path: Path) -> None:
    name, *options = verb.split()
    command = [sys.executable, "-OO", "-m", "s4gen", name, str(tiny), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


# Paths of the environment (row 4)


@pytest.mark.parametrize("variable", ["S4GEN_DATA", "S4GEN_CACHE", "XDG_CACHE_HOME"])
def test_a_home_of_nobody_in_the_environment_is_one_line(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("S4GEN_CACHE", raising=False)
    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    message = f"{variable} = ~nobody-of-this-name/x: there is no home folder of that name; write the path without ~"
    arguments = ["cache"] if variable != "S4GEN_DATA" else ["eval", "mnist-small", "--dataset", "mnist", "--limit", "1"]
    assert_refused_in_one_line(main, arguments, message, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "mnist-small", "--set", "data.dataset=images:~nobody-of-this-name"],
        ["train", "fsdd-small", "--set", "data.dataset=audio:~nobody-of-this-name/x"],
        ["train", "wikitext-mini", "--set", "data.dataset=~nobody-of-this-name/x.txt"],
        ["tokenize", "--dataset", "~nobody-of-this-name/x.md"],
        ["train", "mnist-small", "--out", "~nobody-of-this-name/x"],
        ["train", "--resume", "~nobody-of-this-name/x"],
        ["train", "~nobody-of-this-name/x.toml"],
        ["eval", "~nobody-of-this-name/x"],
        ["sample", "mnist-small", "-o", "~nobody-of-this-name/x.png"],
        ["train", "mnist-small", "--start", "~nobody-of-this-name/x", "--set", "data.dataset=mnist-mini"],
    ],
    ids=" ".join,
)
def test_a_home_of_nobody_is_one_line(
    arguments: list[str], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused_in_one_line(main, arguments, "there is no home folder of that name", capsys)
    assert not list(tmp_path.iterdir())


def test_a_path_begins_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("S4GEN_DATA", "~/data")
    (tmp_path / "data").mkdir()
    assert user_path("~/x") == tmp_path / "x"
    assert data_folder() == tmp_path / "data"
    with pytest.raises(UserError, match="holds a zero byte"):
        user_path("a\0b")


def test_without_a_home_the_cache_is_a_folder_of_ones_own_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("S4GEN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    folders._temporary_cache.cache_clear()
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    mine = tmp_path / f"s4gen-cache-{os.getuid()}"
    assert [cache_folder(), cache_folder()] == [mine, mine]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"s4gen: there is no home folder, so downloads and what is prepared go to {mine}; set S4GEN")
    assert mine.stat().st_mode & 0o777 == 0o700
    folders._temporary_cache.cache_clear()
    mine.chmod(0o777)
    with pytest.raises(UserError, match="belongs to somebody else: set S4GEN_CACHE"):
        cache_folder()
    folders._temporary_cache.cache_clear()


def test_a_home_that_cannot_be_written_to_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As / is for who runs in a container as nobody in particular."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("S4GEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    folders._temporary_cache.cache_clear()
    assert cache_folder().parent == tmp_path
    folders._temporary_cache.cache_clear()


# The cache (row 14)


def test_everything_is_cached_in_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert token_file.token_cache().parent == tmp_path / "mine"
    assert loading.cache_folder is cache_folder
    monkeypatch.delenv("S4GEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "s4gen"


def test_cache_says_what_is_in_it_and_removes_that_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0.0 MB (S4GEN_CACHE names another folder)\n"
    (tmp_path / "tokens" / "deep").mkdir(parents=True)
    (tmp_path / "tokens" / "deep" / "x").write_bytes(b"x" * 1_500_000)
    (tmp_path / "engine-0.so").write_bytes(b"x")
    (tmp_path / "diary.txt").write_text("dear diary")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "audio").symlink_to(tmp_path / "elsewhere")
    assert main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["cleared"]) == (str(tmp_path), False)
    assert found["bytes"].keys() == {"tokens", "engine-0.so", "audio"}
    assert found["bytes"]["tokens"] == 1_500_000
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"removed 1.5 MB from {tmp_path}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diary.txt", "elsewhere"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_the_readme_names_the_variable() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("S4GEN_CACHE") == 1


# Temperature 0 (row 12)


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_temperature_zero_is_greedy(engine: str, tiny: Path) -> None:
    from s4gen.checkpoint import load_checkpoint

    recurrent = convert(load_checkpoint(tiny).model)
    cold = generate(recurrent, 2, seed=0, filters=Filters(temperature=0), engine=engine)
    assert torch.equal(cold, generate(recurrent, 2, seed=1, filters=Filters(top_k=1), engine="eager"))


def test_temperature_zero_goes_with_every_kind(tiny: Path, tmp_path: Path, capsys: Capture) -> None:
    for seed in ("0", "1"):
        assert (
            main(["sample", str(tiny), "-n", "1", "--temperature", "0", "--seed", seed, "-o", f"{tmp_path}/{seed}.png"])
            == 0
        )
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    capsys.readouterr()
    for seed in ("0", "1"):
        arguments = ["sample", "wikitext2-small", "--prompt", "The", "--max-tokens", "3", "--temperature", "0.0"]
        assert main([*arguments, "--seed", seed]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    arguments = ["sample", str(tiny), "-o", "x.png", "--temperature"]
    assert_refused_in_one_line(main, [*arguments, "-0.1"], "expected a number, at least 0", capsys)


# Small print (row 17)


def test_blank_lines_between_records_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.JSONL"
    path.write_text('{"prompt": "one"}\n\n  \n{"text": "two"}\n\n', encoding="utf-8")
    assert read_prompts(path) == ["one", "two"]
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\ntwo\r\n")
    assert read_prompts(tmp_path / "a.txt") == ["one", "", "two"]
    path.write_text("\n \n")
    with pytest.raises(UserError, match="is empty; expected a prompt in each line"):
        read_prompts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_are_read_in_any_unicode(encoding: str, tmp_path: Path) -> None:
    assert decoded("ä £\n".encode(encoding)) == "ä £\n"
    (tmp_path / "a.txt").write_bytes("ä £\nb\n".encode(encoding))
    assert read_prompts(tmp_path / "a.txt") == ["ä £", "b"]


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[data]\ndataset = 'minst'\n")
    assert_refused_in_one_line(main, ["train", str(tmp_path / "a.toml")], 'data.dataset = "minst": expected', capsys)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"\n", "\n"),
        (r"a\n\nb", "a\n\nb"),
        (r"\t", "\t"),
        (r"\\n", r"\n"),
        ("\n", "\n"),
        (r"\d .", r"\d ."),
        ("\\", "\\"),
    ],
)
def test_what_is_meant_by_a_stop(given: str, meant: str) -> None:
    assert unescaped(given) == meant


# What is left over (rows 10 and 15)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/y", "file/below"])
def test_a_path_that_the_system_refuses_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub is asked again and again, with pauses
    (tmp_path / "file").touch()
    for arguments in (
        ["info", name],
        ["train", name],
        ["train", "mnist-small", "--set", "data.dataset=mnist-mini", "data.validation=9", "--out", name],
        ["train", "mnist-small", "--set", f"data.dataset=images:{name}"],
        ["tokenize", "--dataset", f"./{name}"],
        ["sample", "mnist-small", "-o", name],
    ):
        assert main(arguments) == 2, arguments
        assert "s4gen: error: " in capsys.readouterr().err.splitlines()[-1]
