"""Hooks of mkdocs: they bring into the site what the repository keeps outside of docs/, such as cards and help texts.

- Files of `BESIDE`, such as the cards of checkpoints, become pages and pictures, and links to them lead there.
- A comment `<!-- section FILE#HEADING -->` in a page becomes that section of another document.
- A comment `<!-- docstring MODULE -->` becomes the docstring of a module.
- A comment `<!-- help -->` becomes the help texts of all verbs.
- A fence of the language `math` becomes MathML, which browsers draw without a script.
"""

from __future__ import annotations

import argparse
import ast
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BESIDE = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "checkpoints/README.md",
    "checkpoints/*/README.md",
    "checkpoints/*/curve.png",
    "models/*",
    "sampling/*.md",
    "sampling/*.png",
    "train/*.toml",
    "train/*.md",
    "train/*.png",
    "train/claims/*",
    "s4gen/examples/*.py",
)
"""Patterns of files outside of docs/ that are a part of the site, under their own paths."""
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)")
_COMMENT = re.compile(r"<!-- (section|docstring|help) ?(.*?) -->")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have fences of the language `math` drawn as MathML."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _math})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of `BESIDE`."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the comments of a page, and lead its links to where their targets are in the site."""
    name = page.file.src_uri
    here = f"docs/{name}" if (ROOT / "docs" / name).exists() else name
    filled = _COMMENT.sub(lambda found: _fill(found[1], found[2]), markdown)
    return _LINK.sub(lambda found: _moved(found[1], here), filled)


def _moved(target: str, here: str) -> str:
    """Return a link of the document `here`, both relative to the repository, as it has to be in the site."""
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    return posixpath.relpath(wanted.removeprefix("docs/"), posixpath.dirname(here.removeprefix("docs/")) or ".")


def _fill(what: str, argument: str) -> str:
    if what == "section":
        return section(*argument.split("#", 1))
    if what == "docstring":
        source = ROOT / (argument.replace(".", "/"))
        path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return f"```text\n{text}\n```"
    return help_of_all_verbs()


def section(file: str, heading: str) -> str:
    """Return what stands below a heading of a document of the repository; its links are made relative to docs/."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"{file} has no heading {heading!r}")
    above = posixpath.join("..", posixpath.dirname(file))
    return _LINK.sub(lambda link: posixpath.normpath(posixpath.join(above, link[1])), found[2]).strip()


def help_of_all_verbs() -> str:
    """Return what `s4gen VERB -h` prints, for every verb and its sub-commands."""
    from s4gen.cli import make_parser
    from s4gen.cli.parser import verbs_of

    os.environ["COLUMNS"] = "100"
    texts = []
    for verb, parser in verbs_of(make_parser()).items():
        commands: dict[str, argparse.ArgumentParser] = {f"{verb} {name}": p for name, p in parser.commands.items()}
        for name, each in {verb: parser, **commands}.items():
            texts.append(f"## s4gen {name}\n\n```text\n{each.format_help()}```")
    return "\n\n".join(texts)


def _math(source: str, language: str, css_class: str, options: Any, md: Any, **settings: Any) -> str:
    """Return equations in LaTeX, one a line, as MathML."""
    return "\n".join(f"<p>{convert(line, display='block')}</p>" for line in source.splitlines() if line.strip())
