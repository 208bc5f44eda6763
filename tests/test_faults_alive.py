"""Runs that are killed, interrupted or doubled while they run, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_cases import leftovers, weights
from fault_table import Note
from processes import running

from s4gen.train.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KINDS = ("images", "text", "sound")


class Runs:
    """Starts runs in children of `forked_runs.py`."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server
        self._ended: dict[int, int] = {}

    def start(self, kind: str, out: Path, again: bool = False, ignored: bool = False) -> int:
        """Begin a run, or go on with it, and return the number of its process."""
        request = {"kind": kind, "out": str(out), "again": again, "ignored": ignored}
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return int(self._line(1)[0])

    def end(self, process: int) -> int:
        """Wait until this process has ended, and return its exit code; that of a signal is negative."""
        while process not in self._ended:
            number, code = self._line(2)
            self._ended[int(number)] = int(code)
        return self._ended[process]

    def signal(self, process: int, number: int) -> None:
        """Send a signal to a process, which may have ended meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    def whole(self, kind: str, out: Path) -> float:
        """Make a run that nothing disturbs, and return the seconds that it took."""
        began = time.monotonic()
        assert self.end(self.start(kind, out)) == 0
        return time.monotonic() - began

    def _line(self, words: int) -> list[str]:
        assert self._server.stdout is not None
        while len(found := self._server.stdout.readline().split()) != words:
            assert found, "the server has died"
            self._ended[int(found[0])] = int(found[1])
        return found


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    here = Path(__file__).parent
    command = [sys.executable, here / "forked_runs.py"]
    with running(command, stdin=subprocess.PIPE, stderr=None) as server:
        yield Runs(server)


def until(ready: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def differing(out: Path, whole: Path) -> int:
    """Return the bytes of weights and states that a run has otherwise than the one that nothing disturbed."""
    found, wanted = weights(out), weights(whole)
    return sum(len(content) for name, content in wanted.items() if found.get(name) != content)


@pytest.mark.faults("random kills")
@pytest.mark.parametrize("kind", KINDS)
def test_wherever_a_run_is_killed_it_goes_on_to_the_same_weights(
    kind: str, runs: Runs, tmp_path: Path, note: Note
) -> None:
    """Ten kills, each at a moment drawn at random, and each run is killed twice."""
    seconds, dice = runs.whole(kind, tmp_path / "whole"), random.Random(f"kills of {kind}")
    kills = survived = lost = 0
    for number in range(1000):
        if kills >= 10:
            break
        out, killed = tmp_path / f"run{number}", 0
        for _ in range(2):
            process = runs.start(kind, out, again=True)
            time.sleep(dice.random() * seconds)
            runs.signal(process, signal.SIGKILL)
            killed += runs.end(process) == -signal.SIGKILL
        assert runs.end(runs.start(kind, out, again=True)) == 0
        missing = differing(out, tmp_path / "whole")
        kills, lost = kills + killed, lost + missing
        survived += killed if not missing and not leftovers(out) else 0
    note(f"random kills: {kind}", kills, survived, lost=lost)
    assert kills >= 10 and survived == kills


@pytest.mark.faults("signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_saves_a_run_that_goes_on_to_the_same_weights(
    name: str, runs: Runs, tmp_path: Path, note: Note
) -> None:
    lost = tried = 0
    for kind in KINDS:
        runs.whole(kind, whole := tmp_path / f"whole {kind}")
        out = tmp_path / kind
        process = runs.start(kind, out)
        until(lambda out=out: len(read_metrics(out)) >= 3)
        runs.signal(process, getattr(signal, name))
        assert runs.end(process) in (130, 0)
        saved = json.loads((out / "checkpoint" / "training.json").read_text())["step"]
        assert saved == max(row["step"] for row in read_metrics(out))
        assert runs.end(runs.start(kind, out, again=True)) == 0
        lost, tried = lost + differing(out, whole), tried + 1
    note(f"signals: {name}", tried, tried if not lost else 0, lost=lost)
    assert not lost


@pytest.mark.faults("signals")
def test_a_run_that_ignores_ctrl_c_runs_to_its_end(runs: Runs, tmp_path: Path, note: Note) -> None:
    runs.whole("images", tmp_path / "whole")
    process = runs.start("images", tmp_path / "run", ignored=True)
    until(lambda: len(read_metrics(tmp_path / "run")) >= 2)
    runs.signal(process, signal.SIGINT)
    assert runs.end(process) == 0
    lost = differing(tmp_path / "run", tmp_path / "whole")
    note("signals: an ignored SIGINT, as by nohup", 1, int(not lost), lost=lost)
    assert not lost


@pytest.mark.faults("two writers")
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_writer_is_refused_and_disturbs_nothing(kind: str, runs: Runs, tmp_path: Path, note: Note) -> None:
    runs.whole(kind, tmp_path / "whole")
    out = tmp_path / "run"
    first = runs.start(kind, out)
    until(lambda: len(read_metrics(out)) >= 1)
    others = [runs.start(kind, out, again) for again in (False, True)]
    assert [runs.end(other) for other in others] == [2, 2]
    assert runs.end(first) == 0
    steps = [row["step"] for row in read_metrics(out) if row["split"] == "train"]
    assert steps == sorted(set(steps)), "every step is logged once"
    lost = differing(out, tmp_path / "whole")
    note(f"two writers: {kind}", 2, 2 if not lost else 0, lost=lost)
    assert not lost


@pytest.mark.faults("two writers")
def test_of_two_who_resume_at_once_one_goes_on(runs: Runs, tmp_path: Path, note: Note) -> None:
    runs.whole("images", tmp_path / "whole")
    out = tmp_path / "run"
    first = runs.start("images", out)
    until(lambda: (out / "checkpoint").exists())
    runs.signal(first, signal.SIGKILL)
    runs.end(first)
    both = [runs.start("images", out, again=True) for _ in range(2)]
    assert sorted(runs.end(process) for process in both) == [0, 2]
    lost = differing(out, tmp_path / "whole")
    note("two writers: two who resume at once", 1, int(not lost), lost=lost)
    assert not lost
