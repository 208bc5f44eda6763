"""The fuzzer: a few files of every kind, and that it would see each sort of fault. `make test-fuzz` tries thousands."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz.__main__ import main as fuzz
from fuzz.__main__ import spread
from fuzz.kinds import KINDS
from fuzz.mutators import MUTATORS, damage
from fuzz.runner import Case, run_cases
from fuzz.verdict import Outcome, judge

HERE = Path(__file__).parent


def test_sixty_files_of_all_kinds_are_refused_or_sane(tmp_path: Path) -> None:
    """In a process of its own: it forks, and threads of libraries that other tests have started would be missing."""
    command = [sys.executable, "-m", "fuzz", "--files", "60", "--seed", "11", "--keep", str(tmp_path / "faults")]
    paths = {"PYTHONPATH": f"{HERE}:{HERE.parent}"}
    done = subprocess.run(command, cwd=HERE, env=os.environ | paths, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"seed 11" in done.stdout
    assert not (tmp_path / "faults").exists()


def test_every_kind_gets_its_share_and_names_a_known_way() -> None:
    cases = list(spread(range(len(KINDS)), 500, 1))
    counts = {number: sum(case.kind == number for case in cases) for number in range(len(KINDS))}
    assert len(cases) == len(set(cases)) == 500
    assert all(counts.values())
    assert counts[0] > counts[3] > 0  # config.json has twice the share of metrics.json
    assert {way for kind in KINDS for way in kind.damaged.values()} <= set(MUTATORS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("way", sorted(MUTATORS))
def test_one_seed_makes_one_damage(way: str, tmp_path: Path) -> None:
    from fuzz.good import sample_of

    content = sample_of(way)
    found = []
    for _ in range(2):
        made = []
        for seed in range(40):
            path = tmp_path / f"{seed}"
            path.write_bytes(content)
            damage(path, way, random.Random(seed))
            small = path.is_file() and path.stat().st_size < 10**8
            made.append(path.read_bytes() if small else b"")
            path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        found.append(made)
    assert found[0] == found[1]
    assert len(set(found[0])) > 20


REFUSAL = "s4gen: error: x.png is none: expected one\n"


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome(2, b"", REFUSAL), "refused"),
        (Outcome(2, b"", "s4gen: skipped 1\n" + REFUSAL), "refused"),
        (Outcome(2, b"", REFUSAL + REFUSAL), "crashed"),
        (Outcome(2, b"", ""), "crashed"),
        (Outcome(2, b"", "libpng warning\n" + REFUSAL), "crashed"),
        (Outcome(2, b"", REFUSAL[:-1] + "\x1b[31m\n"), "crashed"),
        (Outcome(2, b"", "s4gen: error: " + "x" * 5000), "crashed"),
        (Outcome(2, b"", "s4gen: error: out of memory: choose less\n"), "crashed"),
        (Outcome(1, b"", "Traceback (most recent call last):\n"), "crashed"),
        (Outcome(130, b"", ""), "crashed"),
        (Outcome(0, b'{"bits_per_dim": 3.5, "seconds": 1}', ""), "accepted"),
        (Outcome(0, b'{"bits_per_dim": null}', ""), "nonsense"),
        (Outcome(0, b'{"bits_per_dim": -3.5}', ""), "nonsense"),
        (Outcome(0, b'{"bits_per_dim": 4.5}', ""), "nonsense"),
        (Outcome(0, b'{"bits_per', ""), "nonsense"),
        (Outcome(0, b"", ""), "nonsense"),
    ],
)
def test_what_became_of_a_command_is_judged(outcome: Outcome, verdict: str, tmp_path: Path) -> None:
    found, why = judge(outcome, tmp_path, {"bits_per_dim": 3.5}, exact=True)
    assert found == verdict, why


def test_a_process_that_hangs_or_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands themselves are replaced: one sleeps, one kills its process, one is refused."""
    from fuzz import runner

    def execute(command: list[str], folder: Path, kind: object) -> Outcome:
        number = int(folder.name.rpartition("-")[2])
        if number == 0:
            time.sleep(60)
        if number == 1:
            os.kill(os.getpid(), 9)
        return Outcome(2, b"", REFUSAL)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "prepare_process", lambda: None)
    monkeypatch.setattr(runner, "set_up", lambda case, seeds, folder: (folder.mkdir(parents=True, exist_ok=True), []))
    cases = iter([Case(0, number, 1) for number in range(4)])
    found = list(run_cases(cases, tmp_path, tmp_path / "room", patience=0.3))
    assert [(each.case.number, each.verdict) for each in found] == [
        *((0, "hung"), (1, "crashed"), (2, "refused"), (3, "refused")),
    ]
    assert "SIGKILL" in found[1].why


@pytest.mark.slow
def test_thousands_of_files(tmp_path: Path) -> None:
    assert fuzz(["--files", "3000", "--seed", "5", "--keep", str(tmp_path / "faults")]) == 0
