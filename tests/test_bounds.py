"""Numbers on the command line are bounded, or refused in one line with the bytes that they would need."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_out import EAGER, refusal, save_tiny

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.data.audio import write
from s4gen.machine import memory
from s4gen.sampling import text as module
from s4gen.sampling.convert import convert
from s4gen.sampling.text import Text, log_probabilities

Capture = pytest.CaptureFixture[str]
TRILLION = str(10**12)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_tiny(folder)
    return folder


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def quick(clips: Sequence[np.ndarray], rate: int, titles: Sequence[str]) -> bytes:
        return b"PNG"

    monkeypatch.setattr(write, "draw_clips", quick)
    return tmp_path


REFUSED: list[tuple[list[str], str]] = [
    (["sample", "classes", "-n", TRILLION, "-o", "x"], "images needs about 200,000.0 GB, and there"),
    (["sample", "classes", "-n", TRILLION, "-o", "x.png"], "images needs about 680,000.0 GB"),
    (["sample", "classes", "-n", TRILLION, "-o", "x", "--shard", "0/9"], "images needs about 200,000.0 GB"),
    (["sample", "classes", "-n", str(10**30), "-o", "x"], "images needs about"),
    (
        ["sample", "grey", "-n", TRILLION, "-o", "x", "--prompt", "test", "--dataset", "mnist-mini"],
        "images needs about",
    ),
    (["sample", "bytes", "-n", TRILLION, "-o", "x.txt"], "texts of 200 tokens needs about 8,200,000.0 GB"),
    (["sample", "bytes", "-n", TRILLION], "texts of 200 tokens needs about 8,200,000.0 GB"),
    (
        ["sample", "bytes", "--max-tokens", TRILLION, "-o", "x.txt"],
        "texts of 1,000,000,000,000 tokens needs about 40,000.0 GB",
    ),
    (["sample", "bytes", "--max-tokens", TRILLION, "-o", "x", "--shard", "0/2"], "needs about 40,000.0 GB"),
    (["sample", "spoken", "-n", TRILLION, "-o", "x"], "clips of 400 samples needs about"),
    (
        ["sample", "spoken", "--seconds", "1e12", "-o", "x.wav"],
        "clips of 400,000,000,000,000 samples needs about 2,000,000.0 GB",
    ),
    (["sample", "spoken", "--seconds", "1e12", "-o", "x", "--select"], "samples needs about 4,000,000.0 GB"),
    (["convert", "classes", "x", "--sequences", TRILLION], "keeping 1,000,000,000,000 sequences needs about"),
]


@pytest.mark.parametrize(("command", "message"), REFUSED, ids=str)
def test_what_cannot_be_held_is_refused_with_the_bytes_that_it_needs(
    command: list[str], message: str, room: Path, capsys: Capture
) -> None:
    said = refusal(capsys, *command)
    assert message in said
    assert "of available memory: " in said
    assert not list(room.glob("x*"))


def test_what_does_not_fit_onto_the_disk_is_refused(
    room: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(room)
    monkeypatch.setattr("s4gen.cli.bounds.shutil.disk_usage", lambda _: usage._replace(free=8_000))
    for command, noun in ((["sample", "classes", "-n", "2"], "images"), (["sample", "spoken", "-n", "2"], "clips")):
        assert f"2 {noun} need at least 8,192 bytes of disk, and {room} has 8,000 bytes free: ask for fewer" in refusal(
            capsys, *command, "-o", "x"
        )
    assert main(["sample", "classes", "-n", "2", "-o", "x.png", *EAGER]) == 0


SCORED: list[tuple[list[str], str]] = [
    (["grey", "--dataset", "mnist-mini", "--limit", "40", "--batch", str(10**9)], "choose a smaller --batch"),
    (["bytes", "--limit", "9000", "--chunk", TRILLION], "choose a smaller --chunk"),
    (["bytes", "--limit", "9000", "--windows", TRILLION], "choose a smaller --windows or --batch"),
    (["digits", "--dataset", "fsdd-mini", "--batch", TRILLION], "choose a smaller --batch"),
]


@pytest.mark.parametrize(("command", "remedy"), SCORED, ids=str)
def test_rows_that_are_scored_together_fit_or_are_refused(
    command: list[str], remedy: str, room: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number beyond what there is means all there is; and that may be too much."""
    assert main(["eval", *command]) == 0
    monkeypatch.setattr(memory, "available_bytes", lambda _: 100_000)
    capsys.readouterr()
    assert main(["eval", *command]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # behind what is said of the data
    assert said.startswith("s4gen: error: scoring ") and "and there are 100,000 bytes of available memory" in said
    assert remedy in said


def test_filters_take_any_number(room: Path) -> None:
    options = ["--top-k", str(10**18), "--batch", str(10**18), "--prompt-rows", "5", "--seed", str(2**64 - 1)]
    assert main(["sample", "classes", "-n", "2", "-o", "x", *options[:4], *options[6:], *EAGER]) == 0


@pytest.fixture
def few_files() -> Iterator[None]:
    """Allow the process hardly more open files than it has, as `ulimit -n 256` does for 400 clips."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_clips_than_files_may_be_open_are_all_written(
    room: Path, few_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sample", "spoken", "-n", "9", "--seconds", "0.05", *EAGER]
    assert main([*command, "-o", "many"]) == 0
    grown: list[int] = []
    opened = write.open_writers
    monkeypatch.setattr(write, "open_writers", lambda paths, rate: (grown.append(len(paths)), opened(paths, rate))[1])
    monkeypatch.setattr(write, "may_be_open", lambda wanted: min(wanted, 3))
    assert main([*command, "-o", "few"]) == 0
    assert grown == [3]
    for file in Path("many").iterdir():
        assert Path("few", file.name).read_bytes() == file.read_bytes()


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(few_files: None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    assert write.may_be_open(2) == 2
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == used + 40
    assert write.may_be_open(100) == 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= used + 100


def test_log_probabilities_are_computed_in_pieces(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt takes no more memory than a short one, and its log-probabilities are those of one pass."""
    recurrent = convert(load_checkpoint(saved / "bytes").model)
    text = Text(0, torch.arange(60) % 200, tokens=[5, 6, 7])
    whole = log_probabilities(recurrent, text)
    assert len(whole) == 3
    sizes: list[int] = []
    real = recurrent.source.score

    def recorded(tokens: torch.Tensor, *rest: object) -> object:
        sizes.append(tokens.shape[1])
        return real(tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recurrent.source, "score", recorded)
    monkeypatch.setattr(module, "CHUNK", 16)
    assert log_probabilities(recurrent, text) == pytest.approx(whole, rel=1e-5)
    assert sizes == [16, 16, 16, 15]


@pytest.mark.skipif(memory._freed_bytes() is None, reason="the C library does not say what it keeps")
def test_freed_memory_goes_back_when_it_is_more_than_a_step_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [0]
    given_back: list[int] = []
    freed = memory.FreedMemory()
    freed._freed = lambda: kept[0]
    monkeypatch.setattr(memory, "_give_back", lambda: given_back.append(kept[0]))
    gigabyte = 2**30
    for kept[0] in (gigabyte, gigabyte * 3 // 2, gigabyte * 3 // 2 + memory.SLACK):
        freed.step_done()
    assert given_back == []
    kept[0] += 1
    freed.step_done()
    assert given_back == [gigabyte * 3 // 2 + memory.SLACK + 1]
    kept[0] = 3 * gigabyte  # what one step, of longer clips, needs
    freed.step_done()
    kept[0] = 9 * gigabyte // 2
    freed.step_done()
    assert len(given_back) == 1


@pytest.mark.skipif(memory._freed_bytes() is None, reason="the C library does not say what it keeps")
def test_what_is_given_back_is_gone() -> None:
    """In a process of its own: the block would otherwise be taken from what earlier tests have freed."""
    found = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True, timeout=120)
    kept, gone = map(int, found.stdout.split())
    assert kept >= 2**27 and gone >= 2**27


GIVEN_BACK = """
import resource, torch
from pathlib import Path
from s4gen.machine import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

freed = memory._freed_bytes()
memory.keep_freed_memory()
before = freed()
block = torch.ones(2**26)
del block
kept, there = freed() - before, resident()
memory._give_back()
print(kept, there - resident())
"""
