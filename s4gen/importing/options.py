"""What a model of state-spaces/s4 was configured with, from any of the forms in which that is written down.

Two forms are read: one flat table of names (as beside the project's fixtures), and the reference's own nested one (its
YAML, or the hyper-parameters in a Lightning checkpoint). `Options` gives both the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from s4gen.errors import UserError

SECTIONS = ("model", "layer", "task", "dataset", "encoder", "decoder")
"""Tables of the reference's form; of `model`, the table `layer` is one of them, or a list of such tables."""
RENAMED = {"measure": "init", "mode": "kind", "real_type": "real_transform", "lr": ""}
"""Older names of options; an empty one means nothing here."""
KINDS = {"nplr": "s4", "dplr": "s4", "s4": "s4", "diag": "s4d", "diagonal": "s4d", "s4d": "s4d"}


class Options:
    """Values by flat name; asking for one that is not there says so, and what it could be."""

    def __init__(self, tables: Mapping[str, Any], source: str) -> None:
        """`source` is what messages call the place that the values come from; empty tables: there is none."""
        self.source = source
        self._values = flattened(tables)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default where there is none, or null."""
        value = self._values.get(name)
        return default if value is None else value

    def need(self, name: str, possible: str) -> Any:
        """The value of an option without which the tensors do not say what the model is.

        Raises:
            UserError: it is not there; the message says what it could be.
        """
        if name not in self:
            if self.source:
                raise UserError(
                    f"{self.source}: {name} is missing, and the weights do not tell it; expected {possible}"
                )
            raise UserError(f"the weights do not tell {name}, which is {possible}: say it in a file given by --config")
        return self._values[name]

    def choice(self, name: str, allowed: Mapping[str, str], default: str) -> str:
        """What `allowed` makes of the first word of an option, in small letters.

        Raises:
            UserError: it is none of them.
        """
        given = self.get(name, default)
        word = re.split(r"[\s(]", str(given).strip().lower())[0]
        if word not in allowed:
            names = ", ".join(allowed)
            raise UserError(f'{self.source}: {name} = "{given}" is not what s4gen can run: expected one of {names}')
        return allowed[word]

    def flag(self, name: str, default: bool) -> bool:
        """A truth value.

        Raises:
            UserError: it is something else.
        """
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.source}: {name} = {value!r}: expected true or false")
        return value

    def agree(self, name: str, found: Any, what: str) -> None:
        """Refuse an option that contradicts the weights, in which it is `found`.

        Raises:
            UserError: it does.
        """
        given = self.get(name, found)
        given = list(given) if isinstance(given, list | tuple) else given
        if given != found and not (isinstance(given, str)):
            raise UserError(
                f"{self.source}: {name} = {given}, but {what} in the weights is {found}; is it another model's?"
            )


def flattened(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Flat names from either form; interpolations such as ${model.d_model} are looked up."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if name in SECTIONS and isinstance(value, Mapping):
            _section(name, value, flat, tables)
        elif not isinstance(value, Mapping):
            _put(name, value, flat, tables)
    return flat


def _section(section: str, table: Mapping[str, Any], flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if name == "layer":
            for layer in value if isinstance(value, list) else [value]:
                if isinstance(layer, Mapping):
                    _layer(layer, flat, root)
        elif name == "_name_":
            flat["backbone" if section == "model" else section] = value
        elif isinstance(value, Mapping):
            # norm: {_name_: layer}, say; and the kernel's own table
            _section(name, value, flat, root)
        else:
            _put(name, value, flat, root)


def _layer(layer: Mapping[str, Any], flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    """One of the layers of a block; a feed-forward's options are not those of the state space layer."""
    if layer.get("_name_") == "ff":
        _put("ff_expand", layer.get("expand"), flat, root)
        return
    _section("layer", layer, flat, root)


def _put(name: str, value: Any, flat: dict[str, Any], root: Mapping[str, Any]) -> None:
    name = RENAMED.get(name, name)
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        value = _looked_up(found[1], root)
    if name == "kind":
        value = KINDS.get(str(value).lower(), value)
    if name and value is not None:
        flat[name] = value


def _looked_up(path: str, root: Mapping[str, Any]) -> Any:
    """The value at a.b.c; None where there is none, as of one that is relative or another interpolation."""
    value: Any = root
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, str) and value.startswith("${") else value
