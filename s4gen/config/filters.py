"""The settings of the filters that stand between a model's output and a draw, as one checked value.

A new filter is a field here, a function and a place in the chain in `sampling.filters`, and a field and a line in
`sampling/engines/native/draw.h`. Everything else (command line, engines, packing for the native engine, suspended
generations) goes by the fields of this class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from s4gen.errors import UserError


def _setting(default: float, metavar: str, accept: Callable[[float], bool], expected: str, help: str) -> Any:
    """Declare a setting: its default, which is off, the values that it accepts, and what the command line says of it.

    `expected` says in words what `accept` accepts. A setting whose default is an int takes whole numbers.
    """
    return field(default=default, metadata={"metavar": metavar, "accept": accept, "expected": expected, "help": help})


@dataclass(frozen=True)
class FilterSettings:
    """Every filter's setting, in the order in which the filters are applied; the defaults keep all tokens.

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = _setting(
        1.0,
        "T",
        lambda value: value >= 0,
        "a number, at least 0",
        "below 1: likelier, less varied; 0: always the likeliest (default: 1)",
    )
    """Divides the logits; below 1 sharpens, 0 takes the most probable token."""
    top_k: int = _setting(
        0, "K", lambda value: value >= 0, "at least 0", "draw from the K likeliest values only (0: all)"
    )
    """Number of tokens kept; 0 is off."""
    top_p: float = _setting(
        1.0,
        "P",
        lambda value: 0 < value <= 1,
        "a number greater than 0, at most 1",
        "draw from the likeliest values that make up probability P (default: 1)",
    )
    """Probability mass kept; 1 is off."""
    min_p: float = _setting(
        0.0,
        "P",
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "leave out values less likely than P times the likeliest (default: 0)",
    )
    """Least probability relative to the most probable token; 0 is off."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and each.metadata["accept"](value)):
                name, expected = each.name.replace("_", "-"), each.metadata["expected"]
                raise UserError(f"{name} is {value}, it must be {expected}")
