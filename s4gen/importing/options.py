"""Read the configuration of a model of state-spaces/s4 under one set of flat names.

Two forms are read: a flat table of names and values (as beside the project's fixtures), and the reference's own nested
one (its YAML, or the hyper-parameters in a Lightning checkpoint).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from s4gen.errors import UserError

SECTIONS = ("model", "layer", "task", "dataset", "encoder", "decoder")
"""Tables of the reference's form. Within `model`, `layer` is a table, or a list of tables, one for each layer."""
RENAMED = {"measure": "init", "mode": "kind", "real_type": "real_transform", "lr": ""}
"""Older names of options with today's; "" drops an option (`lr` is a learning rate, which no model needs)."""
KINDS = {"nplr": "s4", "dplr": "s4", "s4": "s4", "diag": "s4d", "diagonal": "s4d", "s4d": "s4d"}


class Options:
    """A model's options by flat name, with checks whose messages say what a value could be."""

    def __init__(self, tables: Mapping[str, Any], source: str) -> None:
        """Take the options from either form; messages call the place they are from `source` ("": no configuration)."""
        self.source = source
        self._values = flattened(tables)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """Return an option's value, or the default where it is missing or null."""
        value = self._values.get(name)
        return default if value is None else value

    def need(self, name: str, possible: str) -> Any:
        """Return the value of an option without which the weights do not determine the model.

        Raises:
            UserError: the option is missing; the message says what is `possible`.
        """
        if name not in self:
            if self.source:
                raise UserError(
                    f"{self.source}: {name} is missing, and the weights do not tell it; expected {possible}"
                )
            raise UserError(f"the weights do not tell {name}, which is {possible}: set it in a file given by --config")
        return self._values[name]

    def choice(self, name: str, allowed: Mapping[str, str], default: str) -> str:
        """Return what `allowed` has for an option's first word, in lower case.

        Raises:
            UserError: `allowed` has nothing for it.
        """
        # A remark may follow the word, as in "glu (Conv1d 1x1)".
        given = self.get(name, default)
        word = re.split(r"[\s(]", str(given).strip().lower())[0]
        if word not in allowed:
            names = ", ".join(allowed)
            raise UserError(f'{self.source}: {name} = "{given}" is not what s4gen can run: expected one of {names}')
        return allowed[word]

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false.

        Raises:
            UserError: the option is something else.
        """
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.source}: {name} = {value!r}: expected true or false")
        return value

    def agree(self, name: str, found: Any, what: str) -> None:
        """Check that an option, if it is set, equals the value `found` in the weights; `what` names that value.

        Raises:
            UserError: the option contradicts the weights.
        """
        given = self.get(name, found)
        given = list(given) if isinstance(given, list | tuple) else given
        # A string stands for a value that is computed elsewhere, such as "${eval:...}": it contradicts nothing.
        if given != found and not (isinstance(given, str)):
            raise UserError(
                f"{self.source}: {name} = {given}, but {what} in the weights is {found}; is it another model's?"
            )


def flattened(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of either form by flat names; an interpolation such as ${model.d_model} is looked up."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if name in SECTIONS and isinstance(value, Mapping):
            _section(name, value, flat, tables)
        elif not isinstance(value, Mapping):
            _put(name, value, flat, tables)
    return flat


def _section(section: str, table: Mapping[str, Any], flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Add the options of one nested table to `flat`; `root` is the whole configuration, for interpolations."""
    for name, value in table.items():
        if name == "layer":
            for layer in value if isinstance(value, list) else [value]:
                if isinstance(layer, Mapping):
                    _layer(layer, flat, root)
        elif name == "_name_":
            flat["backbone" if section == "model" else section] = value
        elif isinstance(value, Mapping):
            # Such as norm: {_name_: layer}, or the kernel's own table inside of the layer's.
            _section(name, value, flat, root)
        else:
            _put(name, value, flat, root)


def _layer(layer: Mapping[str, Any], flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Add the options of one layer of a block; those of a feed-forward must not pass for the state space layer's."""
    if layer.get("_name_") == "ff":
        _put("ff_expand", layer.get("expand"), flat, root)
        return
    _section("layer", layer, flat, root)


def _put(name: str, value: Any, flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    """Add one option under its present name."""
    name = RENAMED.get(name, name)
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        value = _looked_up(found[1], root)
    if name == "kind":
        value = KINDS.get(str(value).lower(), value)
    if name and value is not None:
        flat[name] = value


def _looked_up(path: str, root: Mapping[str, Any]) -> Any:
    """Return the value at the path a.b.c, or None: also where the path is relative or leads to an interpolation."""
    value: Any = root
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, str) and value.startswith("${") else value
