"""List the keys of recipes with their types, defaults and meanings, as the docstrings of the dataclasses say them.

`s4gen train --keys` prints the list; docs/recipes.md is the same text, and a test compares the two.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from typing import Any

from s4gen.config.recipes import RECIPE_SECTIONS
from s4gen.config.strict import NOUNS, SECTIONS, field_types

HEAD = """\
# The keys of recipes

A recipe is a TOML file with these sections (`train/*.toml` are examples); `s4gen train RECIPE --set section.key=value`
changes a value. `[model]` may have a key `preset` besides: the name of a file in `models/`, or a path, from which the
sections model and ssm are read first. `s4gen train --keys` prints this list.
"""


def listing() -> str:
    """Return the list of all sections and keys as Markdown."""
    return "\n".join([HEAD, *(_section(name) for name in RECIPE_SECTIONS)])


def _section(name: str) -> str:
    """Return the heading of a section, its own docstring, and its keys."""
    kind = SECTIONS[name]
    meanings, types = _meanings(kind), field_types(kind)
    lines = [f"## [{name}]", "", _joined(inspect.getdoc(kind) or ""), ""]
    for field in dataclasses.fields(kind):
        about = f"{NOUNS[types[field.name]]}; default {_default(field.default)}"
        lines.append(f"- **{field.name}** ({about}): {_joined(meanings[field.name])}")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    return "not set" if value is None else f"`{json.dumps(value)}`"


def _joined(text: str) -> str:
    """Return a docstring with each of its paragraphs and items on one line; items are indented below their key."""
    paragraphs: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if line.startswith("- ") or not line or not paragraphs:
            paragraphs.append(line and ("  " + line if line.startswith("- ") else line))
        elif paragraphs[-1]:
            paragraphs[-1] += " " + line.strip()
        else:
            paragraphs[-1] = "  " + line
    return "\n".join(part for part in paragraphs if part)


def _meanings(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, which Python itself does not keep."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), field.target.id
            found[field.target.id] = str(text.value.value)
    return found
