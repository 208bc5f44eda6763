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


@pytest.mark.slow
def test_likelihoods_find_inverted_digits_and_are_misled_by_what_is_simple(capsys: pytest.CaptureFixture[str]) -> None:
    def separations(*argv: str) -> dict[str, float]:
        from s4gen.examples import odd_ones

        assert odd_ones.main(argv) == 0
        printed = capsys.readouterr().out
        with capsys.disabled():
            print(f"\n{' '.join(argv)}\n{printed}")
        return {line[:24].strip(): float(line.split()[-1]) for line in printed.splitlines()[2:]}

    digits = separations("mnist-small", "--images", "60")
    assert digits["inverted"] > 0.99 and digits["noise"] > 0.99
    assert digits["black"] == 0, "every digit costs more than nothing at all"
    assert 0.5 < digits["5 values flipped"] < 0.95, "lost in the sum, and seen in the map"
    photographs = separations("cifar10-small", "--dataset", "cifar10-mini", "--images", "10")
    assert photographs["smooth ramps"] == photographs["all of one colour"] == photographs["black"] == 0
    assert photographs["inverted"] < 0.75, "as smooth as the others"


@pytest.mark.parametrize("argv", [["nowhere"], ["wikitext2-small"], ["mnist-small", "--dataset", "cifar10-mini"]])
def test_odd_ones_are_looked_for_among_images_of_the_model_alone(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from s4gen.examples import odd_ones

    assert odd_ones.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
