"""Whatever kills a command at whatever change of the disk, it can be repeated, and a run goes on as if nothing had been.

The fast tests take one saving of a run apart; those marked `slow` (`make test-faults`) whole commands, change by change.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Disk, dies, disk_that_fails, points

from s4gen import atomic
from s4gen.checkpoint import load_checkpoint
from s4gen.cli.train import check_resumable, folder_of_run
from s4gen.config import DataConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TrainConfig
from s4gen.data.audio import clips
from s4gen.data.audio.opening import open_split
from s4gen.data.text import load_tokens, prepare_tokenizer, token_file
from s4gen.errors import UserError
from s4gen.sampling.convert import certify, convert, load_recurrent, save_converted
from s4gen.train import folder, run, session
from s4gen.train.loop import open_task
from s4gen.unfinished import is_leftover

CPU = torch.device("cpu")
DATA = {
    "images": DataConfig("mnist-mini", validation=2),
    "text": DataConfig("wikitext-mini", tokenizer="bytes"),
    "sound": DataConfig("fsdd-mini", validation=2, rate=1000),
}


def recipe(kind: str = "images", **train: Any) -> Recipe:
    settings = {"steps": 2, "batch_size": 2, "log_every": 1, "eval_every": 2, "eval_limit": 2, "save_every": 1}
    if kind == "text":
        settings["chunk"] = 8
    return Recipe(
        ModelConfig(d_model=4, n_layers=1, d_ff=0, dropout=0.1),  # dropout: the random state matters
        SSMConfig(d_state=4),
        DATA[kind],
        OptimConfig(warmup_steps=1),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / folder.CHECKPOINT).glob("*.safetensors")}


def leftovers(root: Path) -> list[Path]:
    """What a killed writer may leave, and the next one has to remove."""
    return [path for path in root.rglob("*") if is_leftover(path) or path.name.endswith(".previous")]


def begin_or_go_on(settings: Recipe, out: Path) -> None:
    """What a person does after a crash: resume, and where that says that there is no run, the same command again."""
    if folder.recipe_file(out) is not None:
        assert run(None, out, resume=True, progress=False)
    else:
        assert run(settings, out, progress=False)


@pytest.fixture
def state() -> session.Session:
    settings = recipe()
    return session.start(settings, open_task(settings, CPU, shown=False).layout, CPU)


@pytest.mark.parametrize("saved_before", [False, True])
def test_wherever_a_saving_dies_the_run_has_the_last_checkpoint_or_the_new_one(
    state: session.Session, saved_before: bool, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if saved_before:
            state.step = 1
            session.save(state, out, {}, "")
        state.step = 2

    def save() -> None:
        session.save(state, out, {}, "")

    prepare()
    places = points(out, save)
    assert len(places) > 30
    for place in places:
        prepare()
        dies(out, place[0], place[2], save)
        folder.put_right(out)
        assert not leftovers(tmp_path), place
        if saved_before or (out / folder.CHECKPOINT).exists():
            assert session.resume(out, CPU).step in ((1, 2) if saved_before else (2,)), place


def test_a_checkpoint_that_was_moved_aside_is_resumed_from_any_name(state: session.Session, tmp_path: Path) -> None:
    """The two renames of a swap, with a death between them; by the folder of the run and by that of its checkpoint."""
    out = tmp_path / "run"
    assert run(recipe(), out, progress=False)
    (out / "checkpoint").rename(out / ".checkpoint.previous")
    assert session.resume(out, CPU).step == 2
    assert folder_of_run(out / "checkpoint") == out
    assert run(None, out, resume=True, steps=3, progress=False)
    assert load_checkpoint(out / "checkpoint").metrics["step"] == 3
    assert not leftovers(out)


def test_a_run_that_was_never_saved_begins_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(recipe(), whole, progress=False)
    assert run(recipe(), cut, progress=False)
    shutil.rmtree(cut / "checkpoint")
    (cut / ".checkpoint.writing-0123abcd").mkdir()
    capsys.readouterr()
    assert run(None, cut, resume=True, progress=False)
    assert f"the run in {cut} had not saved a checkpoint, so it begins again at step 0\n" in capsys.readouterr().err
    assert weights(cut) == weights(whole)
    assert not leftovers(cut)


def test_a_run_from_other_weights_goes_on_with_them_wherever_it_died(tmp_path: Path) -> None:
    """A recipe does not hold where weights came from, so it alone would begin from random ones."""
    assert run(recipe(steps=1, seed=5), tmp_path / "first", progress=False)
    settings, whole, cut = recipe(save_every=2), tmp_path / "whole", tmp_path / "cut"
    assert run(settings, whole, start=tmp_path / "first", progress=False)

    def act() -> None:
        run(settings, cut, start=tmp_path / "first", progress=False)

    def written(disk: Disk) -> bool:
        return (cut / "checkpoint").is_dir() and not (cut / "recipe.toml").exists()

    places = points(cut, act)
    first_rename = next(at for at, name, _ in places if name == "rename")
    for at in (first_rename, first_rename + 3, len({at for at, _, _ in places}) // 2):
        shutil.rmtree(cut)
        dies(cut, at, "after", act)
        assert run(None, cut, resume=True, progress=False)
        assert weights(cut) == weights(whole), at
