"""Processes that run one command after another with damaged files, and are replaced when one hangs, or dies of it.

A process runs the command line's main function itself, since starting Python and PyTorch for every file would take a
hundred times as long. It may have only so much memory more than it has at its beginning.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzz.execute import environment, execute, prepare_process
from fuzz.kinds import KINDS, Kind
from fuzz.mutators import damage
from fuzz.verdict import judge, result_of

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

    A command that seems to hang gets a second chance, with four times the time, as the machine may be busy.
    """
    workers: list[_Worker] = []
    good: dict[tuple[int, int], Any] = {}
    again: list[Case] = []
    tried: set[Case] = set()

    def start(case: Case, seconds: float, old: _Worker | None) -> None:
        worker = old or _started(seeds, room)
        worker.case, worker.deadline = case, time.monotonic() + seconds
        worker.line.send((case, good))
        workers.append(worker)

    waiting, free = iter(cases), None
    try:
        while True:
            while len(workers) < jobs and (next_case := again.pop() if again else next(waiting, None)) is not None:
                slow = next_case in tried
                start(next_case, 4 * patience if slow else patience, free)
                free = None
            if not workers:
                break
            finding, free = _next(workers)
            if finding.verdict == "hung" and finding.case not in tried:
                tried.add(finding.case)
                again.append(finding.case)
                continue
            _learn(finding, good)
            yield finding
    finally:
        for worker in [*workers, *([free] if free else [])]:
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
