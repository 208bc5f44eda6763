"""Run one command after another in this process, with little memory, no network, and both streams caught."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from fuzz.kinds import Kind
from fuzz.resume import resume
from fuzz.verdict import Outcome

MEMORY = 2 << 30
"""Bytes that a command may take more than the process has: a good file needs a hundredth of it."""


def prepare_process() -> None:
    """Give this process what all cases need: one thread, no network, no core dumps, and every warning each time."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError("there is no network here")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    # What a fresh process would show each time, this one would otherwise show once.
    warnings.simplefilter("always")
    for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)


def environment(kind: Kind, folder: Path) -> list[str]:
    cache = folder / ("half" if "half" in kind.needs else "cache")
    return [f"S4GEN_CACHE={cache}", *([f"S4GEN_DATA={folder / 'data'}"] if kind.data else [])]


def execute(command: list[str], folder: Path, kind: Kind) -> Outcome:
    """Run a command in a folder, in this process."""
    from s4gen.data.audio import clips

    before = dict(os.environ), os.getcwd(), {name: getattr(clips, name) for name in kind.settings}
    os.environ.update(text.split("=", 1) for text in environment(kind, folder))
    os.chdir(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _limit(size + MEMORY, MEMORY)
    for name, value in kind.settings.items():
        setattr(clips, name, value)
    try:
        with _captured(folder) as captured:
            code = _main(command)
    finally:
        _limit(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        os.chdir(before[1])
        os.environ.clear()
        os.environ.update(before[0])
        for name, value in before[2].items():
            setattr(clips, name, value)
    out, err = captured
    return Outcome(code, out.read_bytes(), err.read_bytes().decode("utf-8", "replace"))


def _limit(memory: int, file: int) -> None:
    """Set the bytes that this process, and a file that it writes, may have; what damages the files needs more."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, resource.RLIM_INFINITY))


def _main(command: list[str]) -> int:
    from s4gen.cli import main

    try:
        return resume(*command[1:]) if command[0] == "resume-generation" else main(command)
    except BaseException:
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _captured(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Send both standard streams, of Python and of libraries in C, to files; yield their paths."""
    paths = folder / ".out", folder / ".err"
    kept = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    try:
        for number, path in enumerate(paths, 1):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
        raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        yield paths
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
