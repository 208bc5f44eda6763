"""What README and docs/ show works: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from serving import Site, served, text_model
from starlette.testclient import TestClient

from s4gen.cli import make_parser
from s4gen.files.shipped import find, shipped_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """Return the blocks of code in a language; in the tabs of docs/ they are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def commands(text: str = README) -> list[str]:
    lines = [re.split(r"[#|>]", line)[0].strip() for block in blocks("sh", text) for line in block.splitlines()]
    return [re.sub(r"\$\w+", "1", line) for line in lines if line.startswith("s4gen ")]


PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
IN_DOCS = [command for text in PAGES.values() for command in commands(text)]


@pytest.mark.parametrize("command", dict.fromkeys([*commands(), *IN_DOCS]))
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


ASKS_A_SERVER = "serving.md"


@pytest.mark.parametrize("page", [name for name in PAGES if blocks("python", PAGES[name]) and name != ASKS_A_SERVER])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a page may write beside the reader
    names: dict[str, object] = {}
    for block in blocks("python", PAGES[page]):
        exec(block, names)


def test_the_client_of_the_page_about_serving_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import openai  # two seconds, for the one process that runs this test

    (program,) = blocks("python", PAGES[ASKS_A_SERVER])
    with Site({"wikitext2-small": served("wikitext2-small", text_model())}) as site:
        server = TestClient(site.app, base_url="http://127.0.0.1:8000")
        monkeypatch.setattr(openai, "OpenAI", functools.partial(openai.OpenAI, http_client=server))
        exec(program, {})
    assert capsys.readouterr().out.strip()


def nav(entries: object) -> list[str]:
    """Return the files in a navigation of mkdocs."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [file for value in values for file in nav(value)]  # type: ignore[union-attr]


def test_every_page_is_in_the_navigation_and_the_navigation_names_what_there_is() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    files = nav(site["nav"])
    assert set(PAGES) <= set(files) and len(files) == len(set(files))
    beside = next(
        ast.literal_eval(line.value)
        for line in ast.parse((ROOT / "docs" / "hooks.py").read_text(encoding="utf-8")).body
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id == "BESIDE"
    )
    brought = {path for pattern in beside for path in ROOT.glob(pattern)}
    for file in files:
        assert (ROOT / "docs" / file).is_file() or ROOT / file in brought, file
    assert site["strict"] is True and site["theme"]["font"] is False


def test_the_sections_that_pages_take_from_other_documents_are_there() -> None:
    taken = [found for text in PAGES.values() for found in re.findall(r"<!-- section (\S+)#(.*?) -->", text)]
    assert taken
    for file, heading in taken:
        assert re.search(rf"^#+ {re.escape(heading)}$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the packages of s4gen[docs]")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert "<!-- section" not in html and "<!-- help" not in html and "<!-- docstring" not in html
        assert not re.search(r"""<(script|link|img|iframe)[^>]*(src|href)=["']?(https?:)?//""", html), page
    assert "<math" in (tmp_path / "conversion.html").read_text(encoding="utf-8")


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
