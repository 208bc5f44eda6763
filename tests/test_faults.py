"""A command that is killed at any change of the disk can be repeated, and a run goes on as if nothing had happened.

The fast tests break off the saving of a run at every change, the slow ones (`make test-faults`) whole commands.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Disk, dies, disk_that_fails, points
from refusals import assert_refused_in_one_line

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.cli.train import folder_of_run
from s4gen.config import DataConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TrainConfig, load_recipe
from s4gen.data.audio import AudioFormat, clips
from s4gen.data.audio import open_split as open_audio
from s4gen.data.text import open_split as open_text
from s4gen.data.text import prepare_tokenizer, token_file
from s4gen.errors import UserError
from s4gen.files import atomic
from s4gen.files.unfinished import is_leftover
from s4gen.sampling.convert import certify, convert, load_recurrent, save_converted
from s4gen.train import folder, loop, run, training_run
from s4gen.train.batches import Batch
from s4gen.train.opening import open_task

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
        ModelConfig(d_model=4, n_layers=1, d_ff=0, dropout=0.1),  # with dropout the random state matters
        SSMConfig(d_state=4),
        DATA[kind],
        OptimConfig(warmup_steps=1),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / folder.CHECKPOINT).glob("*.safetensors")}


def leftovers(root: Path) -> list[Path]:
    """Return everything below a folder that a killed writer left and the next one has to remove."""
    return [path for path in root.rglob("*") if is_leftover(path) or path.name.endswith(".previous")]


def begin_or_go_on(settings: Recipe, out: Path) -> None:
    """Do what a person does after a crash: resume, or repeat the command where there is no run to resume."""
    if folder.recipe_file(out) is not None:
        assert run(None, out, resume=True, progress=False)
    else:
        assert run(settings, out, progress=False)


@pytest.fixture
def state() -> training_run.TrainingRun:
    settings = recipe()
    return training_run.start(settings, open_task(settings, CPU, progress=False).config(settings), CPU)


@pytest.mark.parametrize("saved_before", [False, True])
def test_wherever_a_saving_dies_the_run_has_the_last_checkpoint_or_the_new_one(
    state: training_run.TrainingRun, saved_before: bool, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if saved_before:
            state.step = 1
            training_run.save(state, out, {}, "")
        state.step = 2

    def save() -> None:
        training_run.save(state, out, {}, "")

    prepare()
    places = points(out, save)
    assert len(places) > 30
    for place in places:
        prepare()
        dies(out, place[0], place[2], save)
        folder.put_right(out)
        assert not leftovers(tmp_path), place
        if saved_before or (out / folder.CHECKPOINT).exists():
            assert training_run.resume(out, CPU).step in ((1, 2) if saved_before else (2,)), place


def test_a_checkpoint_that_was_moved_aside_is_resumed_from_any_name(
    state: training_run.TrainingRun, tmp_path: Path
) -> None:
    """A death between the two renames leaves it so; the user may name the run's folder or its checkpoint's."""
    out = tmp_path / "run"
    assert run(recipe(), out, progress=False)
    (out / "checkpoint").rename(out / ".checkpoint.previous")
    assert training_run.resume(out, CPU).step == 2
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
    """The recipe does not say where weights came from, so a run that began by it again would have random ones."""
    assert run(recipe(steps=1, seed=5), tmp_path / "first", progress=False)
    settings, whole, cut = recipe(save_every=2), tmp_path / "whole", tmp_path / "cut"
    assert run(settings, whole, start=tmp_path / "first", progress=False)

    def act() -> None:
        run(settings, cut, start=tmp_path / "first", progress=False)

    places = points(cut, act)
    first_rename = next(at for at, name, _ in places if name == "rename")
    for at in (first_rename, first_rename + 3):
        shutil.rmtree(cut)
        dies(cut, at, "after", act)
        assert run(None, cut, resume=True, progress=False)
        assert weights(cut) == weights(whole), at


# A disk that takes nothing more


FULL = (errno.ENOSPC, errno.EDQUOT)


@pytest.mark.parametrize(
    ("error", "every"),
    [
        (errno.ENOSPC, 19),
        (errno.EROFS, 23),
        *(pytest.param(error, 1, marks=pytest.mark.slow) for error in (*FULL, errno.EROFS, errno.EACCES, errno.EIO)),
    ],
)
def test_wherever_a_disk_takes_no_more_a_run_ends_in_one_line_and_goes_on_later(
    error: int, every: int, tmp_path: Path
) -> None:
    settings, whole, out = recipe(), tmp_path / "whole", tmp_path / "run"
    assert run(settings, whole, progress=False)
    count = len({at for at, _, _ in points(out, lambda: run(settings, out, progress=False))})
    for at in range(0, count - 9, every):  # after the last rename nothing can be lost
        shutil.rmtree(out)
        with disk_that_fails(Disk(out, at, error=error)), pytest.raises(UserError) as refusal:
            run(settings, out, progress=False)
        message = str(refusal.value)
        assert message.startswith("disk full" if error in FULL else "cannot write"), at
        saved = atomic.current(out / "checkpoint")
        if saved is not None:
            step = json.loads((saved / "training.json").read_text())["step"]
            assert message.endswith(f"; the run can go on from step {step}: s4gen train --resume {out}"), at
        elif out.exists() and folder.recipe_file(out):
            assert message.endswith(f"; the run had no checkpoint yet and can begin again: s4gen train --resume {out}")
        else:
            assert message.endswith("; the run had not begun") or not out.exists(), at
        begin_or_go_on(settings, out)
        assert weights(out) == weights(whole), at
        assert not leftovers(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1 MB and return its folder."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root may make a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_real_disk_that_takes_no_more_ends_a_run_in_one_line(
    read_only: bool,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out, ballast = tmp_path / "whole", small_disk / "run", small_disk / "ballast"
    assert run(recipe(), whole, progress=False)
    real = loop.training_step

    def spoilt(state: training_run.TrainingRun, batch: Batch) -> tuple[float, float]:
        if state.step == 1 and read_only:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        elif state.step == 1:
            with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            # The next row of metrics must need a new page, of which the full disk has none.
            (out / "metrics.csv").write_bytes(bytes(4096))
        return real(state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", spoilt)
        with pytest.raises(UserError) as refusal:
            run(recipe(), out, progress=False)
    assert str(refusal.value).startswith("cannot write" if read_only else "disk full while writing")
    assert str(refusal.value).endswith(f"; the run can go on from step 1: s4gen train --resume {out}")
    if read_only:
        capsys.readouterr()
        assert_refused_in_one_line(main, ["train", "--resume", str(out)], "Read-only file system", capsys)
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    else:
        ballast.unlink()
    assert run(None, out, resume=True, progress=False)
    assert weights(out) == weights(whole)
    assert not leftovers(out)


def test_a_run_whose_checkpoints_do_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert run(recipe(), out, progress=False)
    size = sum(file.stat().st_size for file in (out / "checkpoint").iterdir())
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage._replace(free=size // 4))
    with pytest.raises(UserError, match=r"needs about .* for its checkpoints, .* free: make room, or choose another"):
        run(recipe(), tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    assert run(None, out, resume=True, progress=False), "nothing is left to save"
    with pytest.raises(UserError, match="make room"):
        run(None, out, resume=True, steps=4, progress=False)
    assert load_checkpoint(out / "checkpoint").metrics["step"] == 2
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage._replace(free=size * 7 // 4))
    assert run(recipe(), out, overwrite=True, progress=False), "the one that is replaced makes room"


def test_a_folder_with_leftovers_alone_is_free(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".recipe.toml.writing-0123abcd").write_text("half")
    assert run(recipe(), out, progress=False)
    assert not leftovers(out)


@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_run_that_is_replaced_never_goes_on_in_the_name_of_the_new_one(at: int, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert run(recipe(seed=1), whole, progress=False)
    assert run(recipe(), out, progress=False)
    old = weights(out)
    dies(out, at, "after", lambda: run(recipe(seed=1), out, overwrite=True, progress=False))
    if folder.recipe_file(out) is None:
        assert run(recipe(seed=1), out, overwrite=True, progress=False)
    else:
        assert run(None, out, resume=True, progress=False)
    assert weights(out) in (old, weights(whole))
    seed = load_checkpoint(out / "checkpoint").recipe.train.seed  # type: ignore[union-attr]
    assert weights(out) == (weights(whole) if seed == 1 else old)


# The whole table


@dataclasses.dataclass
class Case:
    """A command that is to be killed at every change of the disk, and what has to be true in the end."""

    act: Callable[[], Any]
    """Runs the command."""
    again: Callable[[], Any]
    """Does what a person does after a crash; it must succeed."""
    result: Callable[[], Any]
    """Returns what the command made; it must be the same after any crash."""
    prepare: Callable[[], Any] = bool
    """Makes what is there before the command."""


def run_case(kind: str, root: Path) -> Case:
    settings, out = recipe(kind), root / "run"
    return Case(lambda: run(settings, out, progress=False), lambda: begin_or_go_on(settings, out), lambda: weights(out))


def lengthened_case(root: Path) -> Case:
    out = root / "run"

    def lengthen() -> None:
        assert run(None, out, resume=True, steps=3, progress=False)

    return Case(lengthen, lengthen, lambda: weights(out), lambda: run(recipe(), out, progress=False))


def started_case(root: Path) -> Case:
    """Return the case of a run that begins from the weights of another run."""
    first, out = root.with_name("first"), root / "run"
    if not first.exists():
        run(recipe(steps=1, seed=5), first, progress=False)

    def begin() -> None:
        assert run(recipe(), out, start=first, progress=False)

    def again() -> None:
        if folder.recipe_file(out) is None:
            begin()
        else:
            assert run(None, out, resume=True, progress=False)

    return Case(begin, again, lambda: weights(out))


def replaced_case(root: Path) -> Case:
    """Return the case of a run that replaces another one, whose checkpoint must not be taken for its own."""
    out = root / "run"

    def replace() -> None:
        assert run(recipe(), out, overwrite=True, progress=False)

    def again() -> None:
        kept = folder.recipe_file(out)
        if kept is not None and load_recipe(kept) == recipe():
            assert run(None, out, resume=True, progress=False)
        else:
            replace()

    return Case(replace, again, lambda: weights(out), lambda: run(recipe(seed=1), out, progress=False))


def convert_case(root: Path) -> Case:
    source, out = root.with_name("source"), root / "converted"
    if not source.exists():
        run(recipe(), source, progress=False)
    checkpoint = load_checkpoint(source / "checkpoint")
    recurrent = convert(checkpoint.model)
    certificate = certify(recurrent, torch.zeros(1, 784, dtype=torch.int64))

    def act() -> None:
        save_converted(checkpoint.path, out, recurrent, certificate, overwrite=out.exists())

    def result() -> dict[str, bytes]:
        load_recurrent(out)
        return {file.name: file.read_bytes() for file in out.iterdir()}

    return Case(act, act, result, act)


def tokens_case(root: Path) -> Case:
    def act() -> bytes:
        tokenizer = prepare_tokenizer("wikitext-mini", "word", 900, progress=False)
        return open_text("wikitext-mini", "test", tokenizer, progress=False).tokens.tobytes()

    return Case(act, act, act)


def audio_case(root: Path) -> Case:
    def act() -> tuple[bytes, bytes]:
        audio = open_audio("fsdd-mini", "test", AudioFormat(1000))
        return audio.codes.tobytes(), audio.lengths.tobytes()

    return Case(act, act, act)


CASES: dict[str, Callable[[Path], Case]] = {
    "run of images": functools.partial(run_case, "images"),
    "run of text": functools.partial(run_case, "text"),
    "run of sound": functools.partial(run_case, "sound"),
    "lengthened run": lengthened_case,
    "run from other weights": started_case,
    "run in the place of another": replaced_case,
    "convert": convert_case,
    "tokens": tokens_case,
    "audio cache": audio_case,
}


def broken_off(name: str, tmp_path: Path, every: int) -> tuple[int, list[tuple[int, str, str]]]:
    """Kill a case at every `every`-th point; return how many were tried, and those after which the result differed."""
    root, lost = tmp_path / "root", []
    case = CASES[name](root)
    case.prepare()
    places = points(root, case.act)
    wanted = case.result()
    tried = places[::every]
    for place in tried:
        shutil.rmtree(root, ignore_errors=True)  # the command's first change of the disk is to make this folder
        case.prepare()
        dies(root, place[0], place[2], case.act)
        try:
            case.again()
            survived = case.result() == wanted and not leftovers(root)
        except UserError:
            survived = False
        if not survived:
            lost.append(place)
    return len(tried), lost


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the test a cache of its own, in which even small data are kept in files and written in several pieces."""
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "root" / "cache"))
    monkeypatch.setattr(clips, "LARGE", 0)
    monkeypatch.setattr(token_file, "SAVE_EVERY", 1 << 14)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("name", "every"), [("convert", 7), ("tokens", 23), ("audio cache", 9)])
def test_a_command_that_died_somewhere_can_be_repeated(name: str, every: int, tmp_path: Path) -> None:
    tried, lost = broken_off(name, tmp_path, every)
    assert tried > 3
    assert not lost


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", CASES)
def test_the_whole_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried, lost = broken_off(name, tmp_path, 1)
    with capsys.disabled():
        print(f"\n{name}: {tried} points tried, {tried - len(lost)} survived")
    assert not lost
