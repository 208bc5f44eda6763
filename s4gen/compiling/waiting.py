"""Run another program to its end, and say so on standard error when it takes longer than a moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

PATIENCE = 1.0
"""Seconds before a line appears: one for a command that is done at once would only be noise."""
_FRAME = 0.1
"""Seconds between two pictures of the spinner."""
_FRAMES = "|/-\\"


def run_visibly(
    command: Sequence[str], line: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit status and its captured output.

    If it takes longer than `PATIENCE` seconds, `line` appears once on standard error. On a terminal a spinner turns
    behind the line until the number of seconds that the command took replaces it.

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
        except BaseException:  # Ctrl-C too: the program must not go on by itself
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
