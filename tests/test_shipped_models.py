"""The shipped language model is what its card says."""

from __future__ import annotations

import json

import pytest

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.shipped import find

Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_language_model_has_read_english(capsys: Capture) -> None:
    """On the text inside the package, which is not of its training split."""
    found = json.loads(
        output(capsys, "eval", "wikitext2-small", "--dataset", "wikitext-mini", "--limit", "4000", "--json")
    )
    assert 60 < found["word_perplexity"] < 150
    written = output(
        capsys, "sample", "wikitext2-small", "--prompt", "The history of", "--max-tokens", "40", "--seed", "1"
    )
    assert written.startswith("The history of ") and len(written.split()) > 30


@pytest.mark.data
def test_the_language_model_has_the_perplexity_of_its_card(capsys: Capture) -> None:
    said = load_checkpoint("wikitext2-small").metrics["test"]
    card = (find("checkpoints", "wikitext2-small") / "README.md").read_text(encoding="utf-8")
    found = json.loads(output(capsys, "eval", "wikitext2-small", "--json"))
    assert found["word_perplexity"] == pytest.approx(said["stream"]["word_perplexity"], rel=1e-4)
    assert f"| **{found['word_perplexity']:.2f}** | {said['windows_512']['word_perplexity']:.2f} |" in card
