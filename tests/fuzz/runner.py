"""Processes that run one command after another with damaged files, and are replaced when one hangs, or dies of it.

A process runs the command line's main function itself, since starting Python and PyTorch for every file would take a
hundred times as long. It may have only so much memory more than it has at its beginning.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from fuzz.kinds import KINDS, Kind
from fuzz.mutators import damage
from fuzz.resume import resume
from fuzz.verdict import Outcome, judge, result_of

MEMORY = 2 << 30
"""Bytes that a command may take more than the process has: a good file needs a hundredth of it."""
PATIENCE = 20.0
"""Seconds after which a command hangs. The good files take a tenth of a second."""


@dataclass(frozen=True)
class Case:
    """One damaged file; all about it follows from these three, and the seeds."""

    kind: int
    """Index in `KINDS`."""
    number: int
    """-1 - c stands for command c with the good file."""
    seed: int

    def rng(self) -> random.Random:
        return random.Random(f"{self.seed} {KINDS[self.kind].name} {self.number}")


@dataclass(frozen=True)
class Finding:
    """What became of a case."""

    case: Case
    verdict: str
    why: str
    seconds: float
    result: Any = None
    """The result of a good file."""
    err: str = ""
    """What the command wrote to standard error."""


@dataclass
class _Worker:
    process: Any
    line: Connection
    case: Case
    deadline: float


def run_cases(
    cases: Iterator[Case], seeds: Path, room: Path, jobs: int = 1, patience: float = PATIENCE
) -> Iterator[Finding]:
    """Run all cases in `jobs` processes, below the folder `room`, and yield what became of each as soon as it is known.

    The folder room/KIND-NUMBER of a case stays if its verdict is not a good one.
    """
    workers: list[_Worker] = []
    good: dict[tuple[int, int], Any] = {}

    def start(case: Case, old: _Worker | None = None) -> None:
        worker = old or _started(seeds, room)
        worker.case, worker.deadline = case, time.monotonic() + patience
        worker.line.send((case, good))
        workers.append(worker)

    try:
        for case in cases:
            if len(workers) < jobs:
                start(case)
                continue
            finding, worker = _next(workers)
            _learn(finding, good)
            yield finding
            start(case, worker)
        while workers:
            finding, worker = _next(workers)
            _learn(finding, good)
            yield finding
            if worker is not None:
                _end(worker)
    finally:
        for worker in workers:
            _end(worker)


def _learn(finding: Finding, good: dict[tuple[int, int], Any]) -> None:
    if finding.case.number < 0:
        good[finding.case.kind, -1 - finding.case.number] = finding.result


def _next(workers: list[_Worker]) -> tuple[Finding, _Worker | None]:
    """Wait until a case is over; return what became of it, and the process for the next one, if it is still alive."""
    while True:
        now = time.monotonic()
        for worker in workers:
            if now >= worker.deadline:
                workers.remove(worker)
                _end(worker)
                return Finding(worker.case, "hung", "no end in sight", now - worker.deadline), None
        ready = wait([worker.line for worker in workers], max(0, min(worker.deadline for worker in workers) - now))
        for worker in workers:
            if worker.line in ready:
                workers.remove(worker)
                try:
                    finding: Finding = worker.line.recv()
                    return finding, worker
                except EOFError:
                    _end(worker)
                    code = worker.process.exitcode
                    name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
                    return Finding(worker.case, "crashed", f"the process ended: {name}", 0.0), None


def _started(seeds: Path, room: Path) -> _Worker:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, seeds, room), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here, Case(0, 0, 0), 0.0)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.line.close()


def _work(line: Connection, seeds: Path, room: Path) -> None:
    """Run cases until nobody sends any more."""
    prepare_process()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            case, good = line.recv()
            line.send(run_case(case, seeds, room, good))


def prepare_process() -> None:
    """Give this process the limits of a case: one thread, little memory, no network, no core dumps."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
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


def folder_of(case: Case, room: Path) -> Path:
    """Return the folder in which a case runs."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", KINDS[case.kind].name)
    return room / f"{name}-{case.seed}-{case.number}"


def run_case(case: Case, seeds: Path, room: Path, good: dict[tuple[int, int], Any]) -> Finding:
    """Make the damaged file, run the command in a folder of its own, and judge it."""
    folder = folder_of(case, room)
    chosen, command = set_up(case, seeds, folder)
    kind = KINDS[case.kind]
    began = time.perf_counter()
    outcome = execute(command, folder, kind)
    seconds = time.perf_counter() - began
    verdict, why = judge(outcome, folder, good.get((case.kind, chosen)), kind.exact)
    result = result_of(outcome, folder) if case.number < 0 and outcome.code == 0 else None
    shutil.rmtree(folder)
    return Finding(case, verdict, why, seconds, result, outcome.err)


def set_up(case: Case, seeds: Path, folder: Path) -> tuple[int, list[str]]:
    """Make the folder of a case with its damaged file; return the number of its command, and the command."""
    kind, rng = KINDS[case.kind], case.rng()
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    prepare(kind, seeds, folder)
    chosen = -1 - case.number if case.number < 0 else rng.randrange(len(kind.commands))
    command = [word.replace("{seeds}", str(seeds)) for word in kind.commands[chosen]]
    if case.number >= 0:
        harm(kind, folder, command, rng)
    return chosen, command


def keep(finding: Finding, seeds: Path, room: Path) -> None:
    """Make the damaged file again, and beside it the command that reads it and what became of that."""
    folder, kind = folder_of(finding.case, room), KINDS[finding.case.kind]
    _, command = set_up(finding.case, seeds, folder)
    program = "s4gen"
    if command[0] == "resume-generation":
        program, command = "python -m fuzz.resume", [str(seeds / "image"), *command[1:]]
    line = " ".join((*environment(kind, folder), program, *command))
    (folder / "command.txt").write_text(f"cd {folder} && {line}\n")
    (folder / "verdict.txt").write_text(f"{finding.verdict}: {finding.why}\n\n{finding.err}")


def prepare(kind: Kind, seeds: Path, folder: Path) -> None:
    """Copy what the command needs into a new folder."""
    for name in kind.needs:
        source, target = seeds / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def harm(kind: Kind, folder: Path, command: list[str], rng: random.Random) -> None:
    """Damage one of the files that the command reads; if it names some of them, one of these."""
    files = [(path, way) for pattern, way in kind.damaged.items() for path in sorted(folder.glob(pattern))]
    named = [each for each in files if any(word in (each[0].name, each[0].parent.name) for word in command)]
    path, way = rng.choice(named or files)
    damage(path, way, rng)


def environment(kind: Kind, folder: Path) -> list[str]:
    cache = folder / ("half" if "half" in kind.needs else "cache")
    return [f"S4GEN_CACHE={cache}", *([f"S4GEN_DATA={folder / 'data'}"] if kind.data else [])]


def execute(command: list[str], folder: Path, kind: Kind) -> Outcome:
    """Run a command in a folder, in this process."""
    from s4gen.data.audio import clips

    before = dict(os.environ), os.getcwd(), {name: getattr(clips, name) for name in kind.settings}
    os.environ.update(text.split("=", 1) for text in environment(kind, folder))
    os.chdir(folder)
    # A file that is to be damaged may be larger than what a command may write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, resource.RLIM_INFINITY))
    for name, value in kind.settings.items():
        setattr(clips, name, value)
    try:
        with _captured(folder) as captured:
            code = _main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.chdir(before[1])
        os.environ.clear()
        os.environ.update(before[0])
        for name, value in before[2].items():
            setattr(clips, name, value)
    out, err = captured
    return Outcome(code, out.read_bytes(), err.read_bytes().decode("utf-8", "replace"))


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
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        yield paths
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
