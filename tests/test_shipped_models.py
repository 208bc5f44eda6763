"""The shipped models are what their cards say.

`make test` holds what a few sequences cost to what they cost when the cards were measured: to four digits and more, so
that a model, a reader of data or an evaluation that changed is found out. Whole test splits are slow tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import assert_refused_in_one_line

from s4gen.checkpoint import load_checkpoint, load_predictor
from s4gen.cli import main
from s4gen.config import load_recipe
from s4gen.files.shipped import find

Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_language_model_has_read_english(capsys: Capture) -> None:
    """On the text inside the package, which is the beginning of the test split."""
    found = json.loads(
        output(capsys, "eval", "wikitext2-small", "--dataset", "wikitext-mini", "--limit", "4000", "--json")
    )
    assert found["word_perplexity"] == pytest.approx(92.452, rel=1e-4)
    written = output(
        capsys, "sample", "wikitext2-small", "--prompt", "The history of", "--max-tokens", "40", "--seed", "1"
    )
    assert written.startswith("The history of ") and len(written.split()) > 30


@pytest.mark.data
@pytest.mark.slow
def test_the_language_model_has_the_perplexity_of_its_card(capsys: Capture) -> None:
    said = load_checkpoint("wikitext2-small").metrics["test"]
    card = (find("checkpoints", "wikitext2-small") / "README.md").read_text(encoding="utf-8")
    found = json.loads(output(capsys, "eval", "wikitext2-small", "--json"))
    assert found["word_perplexity"] == pytest.approx(said["stream"]["word_perplexity"], rel=1e-4)
    assert f"| **{found['word_perplexity']:.2f}** | {said['windows_512']['word_perplexity']:.2f} |" in card


def assert_scored_as_on_its_card(name: str, measure: str, sequences: int, capsys: Capture) -> None:
    """Score the whole test split, and compare with what the checkpoint's metrics and its card say."""
    said = load_checkpoint(name).metrics["test"]
    card = (find("checkpoints", name) / "README.md").read_text(encoding="utf-8")
    found = json.loads(output(capsys, "eval", name, "--json"))
    assert found["n_sequences"] == said["n_sequences"] == sequences
    assert found[measure] == pytest.approx(said[measure], abs=1e-4)
    assert f"**{found[measure]:.3f} ± {found['stderr']:.3f}**" in card


HORIZONS = (24, 48, 168, 336, 720)
INFORMER = (0.098, 0.158, 0.183, 0.222, 0.269)
"""Mean squared errors on ETTh1, univariate, as published (arXiv 2012.07436)."""


@pytest.mark.parametrize(("horizon", "informer"), list(zip(HORIZONS, INFORMER, strict=True)))
def test_the_forecasters_are_better_than_informer_and_say_what_they_need(
    horizon: int, informer: float, capsys: Capture
) -> None:
    loaded = load_predictor(f"etth1-{horizon}")
    assert loaded.recipe == load_recipe(f"claims/etth1-{horizon}"), "the recipe as it stands"
    said = loaded.metrics["test"]
    assert said["horizon"] == horizon and said["mse"] < informer
    assert said["n"] == 4 * 30 * 24 - horizon + 1, "every window whose forecast lies in the four months of the test"
    card = (find("checkpoints", f"etth1-{horizon}") / "README.md").read_text(encoding="utf-8")
    assert f"**{said['mse']:.4f}** | **{said['mae']:.4f}**" in card
    message = "no ETTh1: set S4GEN_DATA to a folder that holds ett/ETTh1.csv"
    assert_refused_in_one_line(main, ["eval", f"etth1-{horizon}", "--json"], message, capsys)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_forecasters_have_the_errors_of_their_cards(horizon: int, capsys: Capture) -> None:
    said = load_predictor(f"etth1-{horizon}").metrics["test"]
    found = json.loads(output(capsys, "eval", f"etth1-{horizon}", "--json"))
    assert (found["horizon"], found["n"]) == (horizon, said["n"])
    assert (found["mse"], found["mae"]) == pytest.approx((said["mse"], said["mae"]), rel=1e-4)


def test_the_model_of_digits_says_them(capsys: Capture, tmp_path: Path) -> None:
    """To the classifier, in many of ten clips; its bits are far from those of a model that knows nothing."""
    found = json.loads(output(capsys, "eval", "fsdd-small", "--dataset", "fsdd-mini", "--limit", "4", "--json"))
    assert found["bits_per_sample"] == pytest.approx(3.4485, abs=1e-4)
    assert found["references"]["flac_codes"] > 4.5
    output(capsys, "sample", "fsdd-small", "--classes", "0-9", "--seconds", "0.7", "-o", str(tmp_path / "digits"))
    clips = json.loads((tmp_path / "digits" / "samples.json").read_text())
    assert sum(clip["recognised"] == clip["class"] for clip in clips) >= 3  # one by chance


@pytest.mark.data
@pytest.mark.slow
def test_the_model_of_digits_has_the_bits_of_its_card(capsys: Capture) -> None:
    assert_scored_as_on_its_card("fsdd-small", "bits_per_sample", 300, capsys)


@pytest.mark.slow
def test_generated_digits_are_recognised(capsys: Capture, tmp_path: Path) -> None:
    """In as many of 200 clips as the card says, but for what another processor rounds."""
    wanted = load_checkpoint("fsdd-small").metrics["recognised_of_200"]
    assert wanted >= 120
    output(
        capsys, "sample", "fsdd-small", "-n", "200", "--classes", "0-9", "--seed", "0", "-o", str(tmp_path / "digits")
    )
    clips = json.loads((tmp_path / "digits" / "samples.json").read_text())
    assert abs(sum(clip["recognised"] == clip["class"] for clip in clips) - wanted) <= 20


def test_the_model_of_photographs_knows_what_they_look_like(capsys: Capture) -> None:
    """On the images inside the package it needs less than half of the 8 bits that a value has."""
    found = json.loads(output(capsys, "eval", "cifar10-small", "--dataset", "cifar10-mini", "--limit", "20", "--json"))
    assert found["bits_per_dim"] == pytest.approx(3.41256, abs=1e-4)


@pytest.mark.data
@pytest.mark.slow
def test_the_model_of_photographs_has_the_bits_of_its_card(capsys: Capture) -> None:
    """All 10,000 test images, some minutes of one core."""
    assert_scored_as_on_its_card("cifar10-small", "bits_per_dim", 10_000, capsys)
