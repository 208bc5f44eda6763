"""Recipes and model presets as TOML files: names, presets, `--set`, and writing a complete recipe back."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s4gen.config.layouts import Layout
from s4gen.config.run import Recipe, kind_of
from s4gen.config.schema import GOES_WITH, DensityConfig, ModelConfig, SSMConfig, check_pair
from s4gen.config.strict import SECTIONS, Setting, build, build_layout, build_recipe, flatten, located
from s4gen.errors import UserError
from s4gen.shipped import find, shipped_folder

RECIPE_SECTIONS = tuple(field.name for field in dataclasses.fields(Recipe))
PRESET_SECTIONS = ("model", "ssm", "layout")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of this path or shipped name, with `section.key=value` overrides laid over it.

    `[model] preset = "NAME"` takes the model and ssm tables of `models/NAME.toml`; keys beside it win over
    them, and the overrides win over both. A value of an override is read as TOML; a bare word is a string.

    Raises:
        UserError: no such file, not TOML, or an unknown section, key, type or value.
    """
    path = find("train", name_or_path)
    source = _display(path)
    flat = flatten(_read_toml(path), RECIPE_SECTIONS, source, also=["model.preset"])
    for override in overrides:
        tables = _parse_override(override)
        flat |= flatten(tables, RECIPE_SECTIONS, f"--set {override}", also=["model.preset"])
    preset = flat.pop("model.preset", None)
    if preset is not None:
        flat = _read_preset_settings(preset, path.parent) | flat
    return build_recipe(flat, source)


def load_preset(name_or_path: str | Path) -> tuple[ModelConfig, SSMConfig, Layout | None]:
    """The model preset of this path or shipped name; its layout too if it has a `[layout]` table.

    Raises:
        UserError: no such file, not TOML, or an unknown section, key, type or value.
    """
    path = find("models", name_or_path)
    source = _display(path)
    flat = flatten(_read_toml(path), PRESET_SECTIONS, source, also=["layout.kind"])
    model, ssm = build("model", flat, source), build("ssm", flat, source)
    has_layout = any(name.startswith("layout.") for name in flat)
    layout = build_layout(flat, source) if has_layout else None
    located(lambda: DensityConfig(layout, model, ssm) if layout else check_pair(model, ssm), flat, source)
    return model, ssm, layout


def recipe_to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every key of every section that goes with the data of the recipe, or is set all the same."""
    kind = kind_of(recipe.data.dataset)
    return {
        section: {
            field.name: getattr(getattr(recipe, section), field.name)
            for field in dataclasses.fields(SECTIONS[section])
            if kind in GOES_WITH.get(f"{section}.{field.name}", (kind,))
            or getattr(getattr(recipe, section), field.name) != field.default
        }
        for section in RECIPE_SECTIONS
    }


def recipe_to_toml(recipe: Recipe) -> str:
    """`recipe_to_dict` as TOML; `load_recipe` reads it back to an equal recipe.

    TOML has no word for a value that is not given, so such a key is named in a comment.
    """
    sections = []
    for name, table in recipe_to_dict(recipe).items():
        lines = [
            f"# {key} is not set" if value is None else f"{key} = {_toml_value(value)}" for key, value in table.items()
        ]
        sections.append("\n".join([f"[{name}]", *lines, ""]))
    return "\n".join(sections)


def _read_preset_settings(preset: Setting, folder: Path) -> dict[str, Setting]:
    """The model and ssm settings of a preset named in a recipe; a path is relative to the recipe's folder."""
    beside = folder / preset.value
    try:
        path = beside if beside.is_file() else find("models", preset.value)
    except UserError as error:
        raise UserError(f'{preset.source}: model.preset = "{preset.value}": {error}') from None
    flat = flatten(_read_toml(path), PRESET_SECTIONS, _display(path), also=["layout.kind"])
    return {name: setting for name, setting in flat.items() if not name.startswith("layout.")}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{_display(path)}: not a TOML file: {error}") from None
    except OSError as error:
        raise UserError(f"{_display(path)}: cannot be read: {error.strerror}") from None


def _parse_override(text: str) -> dict[str, dict[str, Any]]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UserError(f"--set {text}: expected section.key=value, such as train.steps=1000")
    return {section: {key: _parse_value(value.strip())}}


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _toml_value(value: bool | float | str | tuple[int, ...]) -> str:
    # JSON's strings, booleans and lists are TOML's
    return json.dumps(value) if isinstance(value, str | bool | tuple) else repr(value)


def _display(path: Path) -> str:
    """The path for messages: `train/NAME.toml` for a shipped one, wherever that is installed."""
    for kind in ("train", "models"):
        if path.is_relative_to(shipped_folder(kind)):
            return f"{kind}/{path.name}"
    return str(path)
