"""A command that is killed at any change of the disk can be repeated, and a run goes on as if nothing had happened.

The fast tests break off the saving of a run at every change, the slow one (`make test-faults`) whole commands.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fault_cases import CASES, CPU, leftovers, recipe, weights
from fault_table import Note
from faults import Camera, dies, disk_that_fails, points

from s4gen.checkpoint import load_checkpoint
from s4gen.cli.train import folder_of_run
from s4gen.data.audio import clips
from s4gen.data.text import token_file
from s4gen.errors import UserError
from s4gen.train import folder, run, training_run
from s4gen.train.opening import open_task


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


def broken_off(name: str, tmp_path: Path, every: int) -> tuple[int, int, list[tuple[int, str, str]]]:
    """Kill a case at every `every`-th point.

    Points that leave the same on the disk are one state, and are gone on from once. Returns how many points were tried,
    how many states that were, and the points behind which the result differed.
    """
    root, kept = tmp_path / "root", tmp_path / "kept"
    case = CASES[name](root)
    case.prepare()
    with disk_that_fails(Camera(root, kept, every=every)) as camera:
        case.act()
    wanted = case.result()
    states: dict[str, bool] = {}
    lost = []
    for place, state in camera.pictures:
        if state not in states:
            shutil.rmtree(root, ignore_errors=True)
            if (kept / state).exists():  # the command's first change of the disk may be to make the folder
                shutil.copytree(kept / state, root, symlinks=True)
            try:
                case.again()
                states[state] = case.result() == wanted and not leftovers(root)
            except (UserError, AssertionError):
                states[state] = False
        if not states[state]:
            lost.append(place)
    return len(camera.pictures), len(states), lost


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the test a cache of its own, in which even small data are kept in files and written in several pieces."""
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "root" / "cache"))
    monkeypatch.setattr(clips, "LARGE", 0)
    monkeypatch.setattr(token_file, "SAVE_EVERY", 1 << 14)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("name", "every"), [("convert", 7), ("tokens", 23), ("audio cache", 9)])
def test_a_command_that_died_somewhere_can_be_repeated(name: str, every: int, tmp_path: Path) -> None:
    tried, states, lost = broken_off(name, tmp_path, every)
    assert tried >= states > 3
    assert not lost


@pytest.mark.slow
@pytest.mark.faults("crash points")
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", CASES)
def test_the_whole_table(name: str, tmp_path: Path, note: Note) -> None:
    tried, states, lost = broken_off(name, tmp_path, 1)
    note(f"crash points: {name}", tried, tried - len(lost), f"{states} states of the disk")
    assert not lost


def test_pictures_are_what_a_process_that_dies_there_leaves(tmp_path: Path) -> None:
    """The table kills nobody: it goes on from copies of the disk, which have to be those that a death leaves."""
    root, kept = tmp_path / "root", tmp_path / "kept"

    def act() -> None:
        run(recipe(steps=1), root, progress=False)

    with disk_that_fails(Camera(root, kept)) as camera:
        act()
    shutil.rmtree(root)
    assert [place for place, _ in camera.pictures] == points(root, act)
    for (number, _, when), state in camera.pictures[::15]:
        shutil.rmtree(root, ignore_errors=True)
        dies(root, number, when, act)
        assert shape(root) == shape(kept / state)


def shape(folder: Path) -> list[tuple[str, int]]:
    """Return the names and sizes of all files; of random names, without what is random, and seconds take any digits."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(
        (path.name.partition(".writing-")[0], path.stat().st_size if path.suffix == ".safetensors" else 0)
        for path in files
    )
