"""Recipes and model presets as TOML files: finding, reading and overriding them, and writing a recipe back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s4gen.config.combinations import check_pair, means_something
from s4gen.config.data import kind_of
from s4gen.config.density import DensityConfig
from s4gen.config.layouts import Layout
from s4gen.config.run import Recipe
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.strict import SECTIONS, Setting, build, build_layout, build_recipe, flatten, located
from s4gen.errors import UserError, shortened
from s4gen.files.parsing import reason, toml_value
from s4gen.files.reading import read_bounded
from s4gen.files.shipped import find, shipped_folder

RECIPE_SECTIONS = tuple(field.name for field in dataclasses.fields(Recipe))
MOST = 1 << 18
"""Bytes that a recipe or a preset has at most. Those that ship have less than 3,000."""
PRESET_SECTIONS = ("model", "ssm", "layout")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, given by path or shipped name, and apply overrides of the form `section.key=value` to it.

    With `[model] preset = "NAME"` the tables model and ssm come from `models/NAME.toml`. Keys beside it win over them,
    and overrides win over both. The value of an override is read as TOML; if it is no TOML, it is taken as a string.

    Raises:
        UserError: there is no such file, it is not TOML, or it has an unknown section or key, or an invalid value.
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
    """Load a model preset, given by path or shipped name; its layout is None if it has no table `[layout]`.

    Raises:
        UserError: as in `load_recipe`.
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
    """Return all sections as tables, without the keys that mean nothing for data and task and are not set."""
    dataset, task = recipe.data.dataset, recipe.task.kind
    kind = kind_of(dataset)
    return {
        section: {
            field.name: getattr(getattr(recipe, section), field.name)
            for field in dataclasses.fields(SECTIONS[section])
            if means_something(f"{section}.{field.name}", kind, task, dataset)
            or getattr(getattr(recipe, section), field.name) != field.default
        }
        for section in RECIPE_SECTIONS
    }


def recipe_to_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML, from which `load_recipe` makes an equal one.

    TOML has no null, so a key whose value is None is named in a comment.
    """
    sections = []
    for name, table in recipe_to_dict(recipe).items():
        lines = [
            f"# {key} is not set" if value is None else f"{key} = {_toml_value(value)}" for key, value in table.items()
        ]
        sections.append("\n".join([f"[{name}]", *lines, ""]))
    return "\n".join(sections)


def _read_preset_settings(preset: Setting, folder: Path) -> dict[str, Setting]:
    """Return the model and ssm settings of a preset that a recipe names; a path is relative to the recipe's folder."""
    beside = folder / preset.value
    try:
        path = beside if beside.is_file() else find("models", preset.value)
    except UserError as error:
        raise UserError(f'{preset.source}: model.preset = "{preset.value}": {error}') from None
    flat = flatten(_read_toml(path), PRESET_SECTIONS, _display(path), also=["layout.kind"])
    return {name: setting for name, setting in flat.items() if not name.startswith("layout.")}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        # utf-8-sig skips the byte order mark that some editors on Windows put in front.
        return toml_value(read_bounded(path, MOST).decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{_display(path)}: not a TOML file: {shortened(reason(error))}") from None
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
        parsed = toml_value(f"value = {text}", MOST)
    except ValueError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a text with line breaks could define more keys


def _toml_value(value: bool | float | str | tuple[int, ...]) -> str:
    # Strings, booleans and lists are written alike in JSON and TOML.
    return json.dumps(value) if isinstance(value, str | bool | tuple) else repr(value)


def _display(path: Path) -> str:
    """Return a path for messages, which is `train/NAME.toml` for a shipped recipe wherever that is installed."""
    for kind in ("train", "models"):
        if path.is_relative_to(shipped_folder(kind)):
            return f"{kind}/{path.name}"
    return str(path)
