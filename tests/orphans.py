"""A program with work in a process of its own, which says the number of that process; started by test_signals.py."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from s4gen.bench.apart import run_apart


def work(path: str) -> int:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    while True:  # at full load, as a benchmark is
        time.monotonic()


if __name__ == "__main__":
    run_apart(work, sys.argv[1])
