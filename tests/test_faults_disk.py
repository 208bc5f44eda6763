"""A disk that is full, read-only or broken ends a run in one line, keeps what was saved, and lets it go on later."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_cases import CASES, begin_or_go_on, leftovers, recipe, weights
from fault_table import Note
from faults import Disk, disk_that_fails, points
from refusals import assert_refused_in_one_line

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.data.audio import clips
from s4gen.data.text import token_file
from s4gen.errors import UserError
from s4gen.files import atomic
from s4gen.train import folder, loop, run, training_run
from s4gen.train.batches import Batch

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


REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@pytest.mark.slow
@pytest.mark.faults("disk full")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_no_command_minds_a_disk_that_takes_no_more(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], note: Note
) -> None:
    """At twenty places of each command, with each error in turn: one line, and repeating it gives the same result."""
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "root" / "cache"))
    monkeypatch.setattr(clips, "LARGE", 0)
    monkeypatch.setattr(token_file, "SAVE_EVERY", 1 << 14)
    root = tmp_path / "root"
    case = CASES[name](root)
    case.prepare()
    count = len({at for at, _, _ in points(root, case.act)})
    wanted = case.result()
    places = sorted({round(i * (count - 1) / 19) for i in range(20)})
    lost = []
    for number, at in enumerate(places):
        shutil.rmtree(root, ignore_errors=True)
        case.prepare()
        error = REFUSED[number % len(REFUSED)]
        try:
            with disk_that_fails(Disk(root, at, error=error)):
                case.act()
        except UserError as refusal:
            said = str(refusal)
        except AssertionError:  # a command line that ended with 2
            said = capsys.readouterr().err.strip()
        else:
            said = ""  # nothing that matters was written behind this place, or it could be done without
        try:
            case.again()
            survived = case.result() == wanted and "\n" not in said
        except (UserError, AssertionError):
            survived = False
        if not survived:
            lost.append((at, error, said))
    note(f"disk full, read-only, broken: {name}", len(places), len(places) - len(lost))
    assert not lost
