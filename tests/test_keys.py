"""The list of the keys of recipes is complete, and docs/recipes.md is that list."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from s4gen.cli import main
from s4gen.config.keys import listing
from s4gen.config.names import AUDIO_SETS, IMAGE_SETS, TEXT_SETS
from s4gen.config.recipes import RECIPE_SECTIONS
from s4gen.config.strict import SECTIONS

DOCUMENT = Path(__file__).parent.parent / "docs" / "recipes.md"


def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keys"]) == 0
    assert DOCUMENT.read_text(encoding="utf-8") == capsys.readouterr().out, "s4gen train --keys > docs/recipes.md"


def test_every_key_has_a_line_with_its_meaning() -> None:
    text = listing()
    for name in RECIPE_SECTIONS:
        _, _, rest = text.partition(f"## [{name}]\n")
        lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("- ")]
        assert [line.split("**")[1] for line in lines] == [field.name for field in dataclasses.fields(SECTIONS[name])]
        assert all(len(line.partition("): ")[2]) > 10 for line in lines)


def test_every_data_set_is_named() -> None:
    for name in (*IMAGE_SETS, *TEXT_SETS, *AUDIO_SETS):
        assert f"{name}," in listing() or f"{name};" in listing()
