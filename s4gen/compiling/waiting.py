"""Waiting for another program, and saying so when it takes its time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

PATIENCE = 1.0
"""Seconds without a word."""
_FRAME = 0.1
_FRAMES = "|/-\\"


def run_visibly(
    command: Sequence[str], line: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it writes is caught.

    Where it takes longer than `PATIENCE`, `line` appears on standard error, once; on a terminal something turns
    behind it, and at last the seconds that it took stand there.

    Raises:
        OSError: the program cannot be started.
    """
    began, terminal, turns = time.monotonic(), sys.stderr.isatty(), 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as process:
        patience: float | None = PATIENCE
        try:
            while True:
                try:
                    out, error = process.communicate(timeout=patience)
                    break
                except subprocess.TimeoutExpired:
                    _show(line, turns, terminal)
                    patience, turns = _FRAME if terminal else None, turns + 1
        except BaseException:
            process.kill()
            raise
    if turns and terminal:
        print(f"\r{line} {time.monotonic() - began:.0f} s", file=sys.stderr)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def _show(line: str, turns: int, terminal: bool) -> None:
    if terminal:
        print(f"\r{line} {_FRAMES[turns % len(_FRAMES)]}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)
