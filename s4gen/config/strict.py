"""Strict loading: tables of plain values become dataclasses, and whatever is not exactly right is refused.

Tables are first made flat: `{"model.d_model": Setting(128, source)}`. Flat tables (of a preset, a recipe, the command
line) can be laid over one another with `|`, and every message can still name where its value came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

from s4gen.config.checks import ConfigError
from s4gen.config.data import DataConfig
from s4gen.config.density import DensityConfig
from s4gen.config.layouts import AudioLayout, ImageLayout, InputLayout, Layout, SeriesLayout, TextLayout
from s4gen.config.predictor import Answers, PredictorConfig
from s4gen.config.run import OptimConfig, Recipe, TrainConfig
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.task import TaskConfig
from s4gen.errors import UserError, shortened

SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "ssm": SSMConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "task": TaskConfig,
    "layout": ImageLayout,
    "answers": Answers,
}
LAYOUTS: dict[str, type] = {kind.kind: kind for kind in (ImageLayout, TextLayout, AudioLayout)}
"""The layouts of density models by the name in `layout.kind`. A table without that key is of kind image."""
INPUT_LAYOUTS: dict[str, type] = {**LAYOUTS, SeriesLayout.kind: SeriesLayout}
"""The layouts of what predictors read."""
LARGEST = 2**40
"""No setting is larger: products of a few of them still fit into 64 bits, or are refused by torch."""
Numbers = tuple[int, ...]
Words = tuple[str, ...]
RENAMED = {"model.mixers": "model.mixers_per_block"}
"""Keys in recipes and checkpoints of earlier versions, with their names today. They are read without a message."""
Floats = tuple[float, ...]
ITEMS: dict[Any, type] = {Numbers: int, Words: str, Floats: float}
NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a word in quotes",
    bool: "true or false",
    Numbers: "a list of whole numbers, such as [2, 3]",
    Words: 'a list of strings, such as ["row"]',
    Floats: "a list of numbers, such as [0.1, 1.0]",
}
"""The words of messages for the type that is expected."""


class Setting(NamedTuple):
    """A value, and the file or option from which it was read."""

    value: Any
    source: str


Flat = Mapping[str, Setting]


def flatten(
    tables: Mapping[str, Any],
    sections: Sequence[str],
    source: str,
    also: Sequence[str] = (),
    layouts: Mapping[str, type] = LAYOUTS,
) -> dict[str, Setting]:
    """Make flat settings of nested tables. Names and types are checked here, ranges when the dataclass is made.

    Args:
        tables: the sections, each a table of keys and values.
        sections: the sections that are allowed.
        source: the file or option that messages name.
        also: further keys that are allowed though they are in no dataclass; their values are strings.
        layouts: the layouts that a section [layout] may describe.

    Raises:
        UserError: a section or key is unknown, or a value has another type.
    """
    kinds = {name: SECTIONS[name] for name in sections}
    if isinstance(layout := tables.get("layout"), Mapping) and "layout" in sections:
        kinds["layout"] = _layout_type(layout.get("kind", ImageLayout.kind), source, layouts)
    types = {f"{name}.{key}": kind for name in sections for key, kind in field_types(kinds[name]).items()}
    types |= dict.fromkeys(also, str)
    flat = {}
    for section, table in tables.items():
        if not isinstance(table, Mapping):
            if section in sections:
                raise UserError(f"{source}: {section} = {_show(table)}: expected a section [{section}]")
            raise UserError(f"{source}: unknown key {shortened(section, 100)}{_suggest(section, list(types))}")
        if section not in sections:
            nearest = difflib.get_close_matches(section, sections, n=1)
            hint = f"did you mean [{nearest[0]}]?" if nearest else f"expected {', '.join(f'[{s}]' for s in sections)}"
            raise UserError(f"{source}: unknown section [{shortened(section, 100)}]; {hint}")
        for key, value in table.items():
            name = RENAMED.get(f"{section}.{key}", f"{section}.{key}")
            if name not in types:
                raise UserError(f"{source}: unknown key {shortened(name, 100)}{_suggest(name, list(types))}")
            flat[name] = Setting(_checked(name, value, types[name], source), source)
    return flat


def build(section: str, flat: Flat, source: str, kind: type | None = None) -> Any:
    """Make the dataclass of one section, by default that in SECTIONS; keys that are not set have their default.

    Raises:
        UserError: a value is out of range, or a key that has no default is missing.
    """
    kind = kind or SECTIONS[section]
    values = {}
    for field in dataclasses.fields(kind):
        name = f"{section}.{field.name}"
        if name in flat:
            values[field.name] = flat[name].value
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{source}: {name} is missing")
    return located(lambda: kind(**values), flat, source)


def located(make: Any, flat: Flat, source: str) -> Any:
    """Return `make()`; turn its ConfigError into a UserError that begins with where the invalid value came from.

    If a value is invalid only beside others, the message ends with those of them that came from elsewhere: a file is
    not at fault for what an option has changed.
    """
    try:
        return make()
    except ConfigError as error:
        where = flat[error.key].source if error.key in flat else source
        keys = dict.fromkeys(re.findall(r"\b[a-z]+\.\w+", str(error)))
        elsewhere = {key: flat[key].source for key in keys if key in flat and flat[key].source != where}
        changed = [f"{key} is from {other}" for key, other in elsewhere.items()]
        raise UserError(f"{where}: {error}" + (f" ({', '.join(changed)})" if changed else "")) from None


def density_config_to_dict(config: DensityConfig) -> dict[str, dict[str, Any]]:
    """Return a configuration as plain values for JSON, from which `density_config_from_dict` makes an equal one."""
    tables = dataclasses.asdict(config)
    return {**tables, "layout": {"kind": config.layout.kind, **tables["layout"]}}


def density_config_from_dict(tables: Mapping[str, Any], source: str = "config.json") -> DensityConfig:
    """Invert `density_config_to_dict`. A missing key has its default, so that files from before a key existed can load.

    Raises:
        UserError: the tables are not such as `density_config_to_dict` makes; the message begins with `source`.
    """
    flat = flatten(tables, ("layout", "model", "ssm"), source, also=["layout.kind"])
    layout, model, ssm = build_layout(flat, source), build("model", flat, source), build("ssm", flat, source)
    config: DensityConfig = located(lambda: DensityConfig(layout, model, ssm), flat, source)
    return config


def predictor_config_to_dict(config: PredictorConfig) -> dict[str, dict[str, Any]]:
    """Return a configuration as plain values for JSON, from which `predictor_config_from_dict` makes an equal one."""
    tables = dataclasses.asdict(config)
    return {**tables, "layout": {"kind": config.layout.kind, **tables["layout"]}}


def predictor_config_from_dict(tables: Mapping[str, Any], source: str = "config.json") -> PredictorConfig:
    """Invert `predictor_config_to_dict`. A missing key has its default.

    Raises:
        UserError: the tables are not such as `predictor_config_to_dict` makes; the message begins with `source`.
    """
    sections = [field.name for field in dataclasses.fields(PredictorConfig)]
    flat = flatten(tables, sections, source, also=["layout.kind"], layouts=INPUT_LAYOUTS)
    kind = flat.get("layout.kind", Setting(ImageLayout.kind, source))
    layout: InputLayout = build("layout", flat, source, _layout_type(*kind, INPUT_LAYOUTS))
    parts = {name: build(name, flat, source) for name in sections if name != "layout"}
    config: PredictorConfig = located(lambda: PredictorConfig(layout=layout, **parts), flat, source)
    return config


def build_layout(flat: Flat, source: str) -> Layout:
    """Make the layout of the kind that `layout.kind` names; without that key it is an ImageLayout."""
    kind = flat.get("layout.kind", Setting(ImageLayout.kind, source))
    layout: Layout = build("layout", flat, source, _layout_type(*kind))
    return layout


def _layout_type(kind: Any, source: str, layouts: Mapping[str, type] = LAYOUTS) -> type:
    if not isinstance(kind, str) or kind not in layouts:  # what is no string may not even be hashable
        names = " or ".join(f'"{name}"' for name in layouts)
        raise UserError(f"{source}: layout.kind = {_show(kind)}: expected {names}")
    return layouts[kind]


def build_recipe(flat: Flat, source: str) -> Recipe:
    """Make a whole recipe from flat settings; keys that are not set have their default."""
    parts = {field.name: build(field.name, flat, source) for field in dataclasses.fields(Recipe)}
    recipe: Recipe = located(lambda: Recipe(**parts), flat, source)
    return recipe


def field_types(kind: type) -> dict[str, type]:
    """Return the type of the value of each field; for a field that may be None, the type that it has otherwise."""
    hints = get_type_hints(kind)
    return {field.name: _given(hints[field.name]) for field in dataclasses.fields(kind)}


def _given(hint: Any) -> Any:
    """Return the type of a value if it is given: for `float | None` float, because None cannot be written in TOML."""
    types = [kind for kind in get_args(hint) if kind is not NoneType]
    return types[0] if isinstance(hint, UnionType) and len(types) == 1 else hint


def _checked(name: str, value: Any, wanted: type, source: str) -> Any:
    """Return the value if it has the type that is wanted; an int will do for a float, and a list for a tuple."""
    # `type` and not isinstance: a bool is an int to Python, but `true` is no number here.
    if type(value) is wanted:
        if type(value) is int and not -LARGEST <= value <= LARGEST:
            raise UserError(f"{source}: {name} = {_show(value)}: expected at most {LARGEST}")
        return value
    if wanted is float and type(value) is int and abs(value) < 2**53:  # beyond that a float would round it
        return float(value)
    items: type | None = ITEMS.get(wanted)
    if items and isinstance(value, list | tuple) and all(type(item) in (items, *_also(items)) for item in value):
        if items is int and any(abs(item) > LARGEST for item in value):
            raise UserError(f"{source}: {name} = {_show(value)}: expected numbers of at most {LARGEST}")
        return tuple(map(items, value))
    noun = NOUNS[wanted]
    raise UserError(f"{source}: {name} = {_show(value)}: got {_noun(value)}, expected {noun}")


def _also(items: type) -> tuple[type, ...]:
    """Return the other types that will do for an item of a list: a whole number for a float."""
    return (int,) if items is float else ()


def _show(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _noun(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a whole number",
        float: "a decimal number",
        str: "a string",
        list: "a list",
    }
    return names.get(type(value), "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}")


def _suggest(name: str, names: Sequence[str]) -> str:
    """Return the end of a message about an unknown key: the nearest valid key, or all keys of its section."""
    section, _, key = name.rpartition(".")
    name = shortened(name, 100)  # to look for what resembles it takes a time that grows with its length
    same_key = [other for other in names if other.rpartition(".")[2] == key]
    siblings = [other for other in names if section and other.startswith(f"{section}.")]
    nearest = same_key or difflib.get_close_matches(name, siblings, n=1) or difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"; did you mean {nearest[0]}?"
    return f"; expected one of {', '.join(siblings or names)}"
