"""What the README shows works: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from s4gen.cli import make_parser
from s4gen.files.shipped import find, shipped_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [re.split(r"[#|]", line)[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("s4gen ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_parses_and_names_what_is_shipped(command: str) -> None:
    args = make_parser().parse_args(shlex.split(command)[1:])
    if recipe := getattr(args, "recipe", None):
        assert find("train", recipe)
    for word in shlex.split(command):
        if word.startswith("checkpoints/"):
            assert find("checkpoints", word)


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\S+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_python_runs() -> None:
    (program,) = blocks("python")
    names: dict[str, object] = {}
    exec(program.replace("n=2", "n=1"), names)
    assert tuple(names["images"].shape) == (1, 784)  # type: ignore[attr-defined]


DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "train/claims/README.md",
    *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_and_picture_is_there(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_every_recipe_says_how_to_run_it_and_what_it_reached() -> None:
    for name in shipped_names("train"):
        head = find("train", name).read_text(encoding="utf-8").split("\n[")[0]
        assert "# command" in head, name
        assert any(unit in head for unit in ("bits/dim", "perplexity", "bits/sample", "accuracy", "mse")), name
