"""Processes that tests start: however a test ends, none of them outlives it and none of their pipes stays open."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process whose output and errors are text in pipes; it is killed at the end of the block if it still runs.

    Left to itself, one whose test has failed would fail the next test too, by a ResourceWarning.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()
