"""What tests start ends with them, and can be interrupted whoever started the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent

FAILING = """
import gc, signal, sys
import pytest
from processes import running

def test_which_waits_in_vain():
    with running([sys.executable, "-c", "import time; print(flush=True); time.sleep(100)"]) as process:
        process.communicate(timeout=0.2)

def test_its_neighbour():
    gc.collect()

@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal(name):
    with running(["sleep", "100"]) as process:
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) == -getattr(signal, name)
"""


def test_a_failed_test_fails_no_other_and_ignored_signals_are_heeded_again(tmp_path: Path) -> None:
    """In a pytest of its own, started as a shell starts a background job."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_inner.py").write_text(FAILING)
    options = ["-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path), "-q", "test_inner.py"]
    command = ["bash", "-c", 'trap "" INT TERM; exec "$@"', "-", sys.executable, "-m", "pytest", *options]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "TimeoutExpired" in done.stdout and "ResourceWarning" not in done.stdout


def test_every_process_is_started_where_its_end_is_certain() -> None:
    for path in TESTS.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert path.name == "processes.py" or not re.search(r"\bPopen\(", source), path
