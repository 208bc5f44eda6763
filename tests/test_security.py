"""What SECURITY.md promises of files that come from strangers, where no other test holds it already."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from s4gen.cli import main

TINY = ["model.d_model=8", "model.n_layers=1", "model.d_ff=0", "ssm.d_state=4", "train.steps=2", "train.batch_size=2"]


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on every way to unpickle: a pickle may name any function and have it called."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise AssertionError("something was unpickled")

    class Refusing:
        __init__ = refuse

    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refusing)
    monkeypatch.setattr(torch, "load", refuse)
    plain = np.load
    monkeypatch.setattr(np, "load", lambda *args, **options: plain(*args, **{**options, "allow_pickle": False}))


@pytest.mark.usefixtures("no_pickles")
def test_no_command_unpickles_anything(tmp_path: Path) -> None:
    """Training, resuming, evaluating, converting, sampling; `import` has tests of its own unpickler."""
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoint"
    small = ["train.eval_limit=2", "train.n_samples=0", "train.save_every=1", "data.dataset=mnist-mini"]
    assert main(["train", "mnist-small", "--out", str(run), "--set", *TINY, *small]) == 0
    assert main(["train", "--resume", str(run), "--set", "train.steps=3"]) == 0
    converted = tmp_path / "converted"
    assert main(["convert", str(checkpoint), str(converted)]) == 0
    for made in (checkpoint, converted):
        assert main(["info", str(made)]) == 0
        assert main(["eval", str(made), "--limit", "1", "--mode", "recurrent"]) == 0
    assert main(["sample", str(converted), "-n", "1", "--seed", "0", "-o", str(tmp_path / "a.png")]) == 0


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its name says, it is read as safetensors, and not run."""
    folder = tmp_path / "evil"
    run = tmp_path / "run"
    small = ["train.eval_limit=2", "train.n_samples=0", "data.dataset=mnist-mini"]
    assert main(["train", "mnist-small", "--out", str(run), "--set", *TINY, *small]) == 0
    (run / "checkpoint").rename(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    capsys.readouterr()
    assert main(["info", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("s4gen: error: ")
    assert not (tmp_path / "planted").exists()


class Planted:
    """An object whose pickle, when it is loaded, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)
