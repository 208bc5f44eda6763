"""The programs to read first are short, run, and show what they promise."""

from __future__ import annotations

import itertools
import re
import runpy
from pathlib import Path

import pytest

from s4gen import examples

FIRST = ("step_by_hand", "toy", "chunks", "own_layer")


@pytest.mark.parametrize("name", FIRST)
def test_an_example_is_short_and_its_views_agree(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len((Path(examples.__file__).with_name(f"{name}.py")).read_text(encoding="utf-8").splitlines()) <= 60
    runpy.run_module(f"s4gen.examples.{name}")
    printed = capsys.readouterr().out
    differences = [float(number) for number in re.findall(r"by (\S+) at most", printed)]
    assert differences and max(differences) < 1e-5


def test_the_toy_is_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    printed = (runpy.run_module("s4gen.examples.toy"), capsys.readouterr().out)[1]
    bits = [float(number) for number in re.findall(r"step \d+: (\S+) bits", printed)]
    assert 0.25 <= bits[-1] < 0.27
    rows = [[int(value) for value in line.split()[1:]] for line in printed.splitlines() if line.startswith("sampled")]
    assert len(rows) == 4
    for row in rows:
        steps = {(after - before) % 8 for before, after in itertools.pairwise(row)}
        assert steps in ({1}, {7})
