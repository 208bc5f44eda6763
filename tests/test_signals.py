"""What a signal ends, and what it saves: children end with their parents, and a run whose terminal goes is saved."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import running

from s4gen.errors import UserError
from s4gen.train.exclusive import only_writer
from s4gen.train.metrics import read_metrics

HERE = Path(__file__).parent


def wait_for(ready: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(number: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_lockable(out: Path) -> bool:
    """Whether the run in a folder has ended."""
    try:
        with only_writer(out, make=False):
            return True
    except UserError:
        return False


@pytest.mark.faults("signals: children end with their parent")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP"])
def test_work_in_a_process_of_its_own_ends_with_the_program_that_wanted_it(name: str, tmp_path: Path) -> None:
    said = tmp_path / "number"
    with running([sys.executable, HERE / "orphans.py", said]) as parent:
        wait_for(lambda: said.is_file() and said.read_text())
        child = int(said.read_text())
        assert is_alive(child)
        parent.send_signal(getattr(signal, name))
        assert parent.wait(timeout=60) == -getattr(signal, name)
        try:
            wait_for(lambda: not is_alive(child), 30)
        finally:
            if is_alive(child):
                os.kill(child, signal.SIGKILL)


@pytest.mark.faults("signals: the terminal goes away")
@pytest.mark.skipif(shutil.which("script") is None, reason="no program that makes a terminal")
def test_a_run_whose_terminal_goes_away_is_saved(tmp_path: Path) -> None:
    """The kernel tells it by SIGHUP; from then on nothing can be written to standard error."""
    out = tmp_path / "run"
    command = shlex.join(["exec", sys.executable, str(HERE / "train_forever.py"), str(out), "shown"])
    with running(["script", "-qec", command, "/dev/null"], stdin=subprocess.DEVNULL) as terminal:
        wait_for(lambda: read_metrics(out) or terminal.poll() is not None)
        terminal.kill()
    wait_for((out / "checkpoint" / "training.json").exists)
    saved = json.loads((out / "checkpoint" / "training.json").read_text())["step"]
    wait_for(lambda: is_lockable(out))
    assert saved >= read_metrics(out)[-1]["step"] > 0


@pytest.mark.faults("signals: SIGHUP under nohup")
def test_nohup_lets_a_run_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(["nohup", sys.executable, HERE / "train_forever.py", out], stdin=subprocess.DEVNULL) as child:
        wait_for(lambda: read_metrics(out) or child.poll() is not None)
        child.send_signal(signal.SIGHUP)
        before = len(read_metrics(out))
        wait_for(lambda: len(read_metrics(out)) > before + 2 or child.poll() is not None)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        _, message = child.communicate(timeout=60)
    assert child.returncode == 0, message
    assert "go on with: s4gen train --resume" in message
