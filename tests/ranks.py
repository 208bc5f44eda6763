"""Runs of many ranks: started by torchrun as a user does, or, which is quicker, two processes with its environment."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from processes import running

from s4gen.config import recipe_to_toml
from s4gen.train.metrics import read_metrics

HERE = Path(__file__).parent
LOSSES = ("bits_per_dim", "nats", "bits_per_sample", "cross_entropy")


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **settings}


@contextlib.contextmanager
def launched(n: int, *command: str | Path, restarts: int = 0, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """`torchrun ... -m s4gen train COMMAND` with n ranks on this host, in an environment with these settings."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    torchrun += ["--max-restarts", str(restarts)]
    with running([*torchrun, "-m", "s4gen", "train", *command], env=environment(**settings)) as process:
        try:
            yield process
        finally:
            for number in ranks_of(process.pid).values():  # their launcher, if it is killed, does not end them
                with contextlib.suppress(OSError):
                    os.kill(number, 9)


def train(n: int, *command: str | Path, **settings: str) -> tuple[int, str]:
    """Let n ranks train to the end; returns the launcher's exit code and what all have written on standard error."""
    with launched(n, *command, **settings) as process:
        _, said = process.communicate(timeout=280)
    return process.returncode, said


def ranks_of(launcher: int) -> dict[int, int]:
    """The process of each rank that a launcher has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == launcher:
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                found[int(next(v for v in variables if v.startswith("RANK="))[5:])] = int(folder.name)
    return found


def wait_for(ready: Callable[[], object], process: subprocess.Popen[str], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(out: Path, split: str = "train") -> list[float]:
    rows = [row for row in read_metrics(out) if row["split"] == split]
    return [next(row[name] for name in LOSSES if name in row) for row in rows]


def differ(a: Path, b: Path, split: str = "train") -> float:
    """The largest difference of two runs' losses."""
    return max(abs(x - y) for x, y in zip(losses(a, split), losses(b, split), strict=True))


def said_by_us(text: str) -> list[str]:
    """The lines of s4gen, without those of torchrun."""
    return [line for line in text.splitlines() if "s4gen: " in line]


def written(recipe: Any, folder: Path, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(recipe_to_toml(recipe))
    return path


def by_hand(n: int, script: Path, *arguments: str | Path) -> list[str]:
    """Run a script in n processes that are ranks of each other; returns what each has written on standard error."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command: Sequence[str | Path] = [sys.executable, script, *arguments]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(running(command, env=environment(**common, RANK=str(rank), LOCAL_RANK=str(rank))))
            for rank in range(n)
        ]
        said = [process.communicate(timeout=280)[1] for process in started]
    assert [process.returncode for process in started] == [0] * n, said
    return said
