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


def _setting(
    default: float,
    metavar: str,
    accept: Callable[[float], bool],
    expected: str,
    help: str,
    kind: str = "",
    native: bool = True,
) -> Any:
    """Declare a setting: its default, which is off, the values that it accepts, and what the command line says of it.

    `expected` says in words what `accept` accepts. A setting whose default is an int takes whole numbers. The command
    line has it for all kinds of models, or for one `kind`. `native` says whether the native engine has this filter.
    """
    return field(
        default=default,
        metadata={
            "metavar": metavar,
            "accept": accept,
            "expected": expected,
            "help": help,
            "kind": kind,
            "native": native,
        },
    )


@dataclass(frozen=True)
class FilterSettings:
    """Every filter's setting, in the order in which they are applied, but for the last; the defaults keep all tokens.

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

    repetition_penalty: float = _setting(
        1.0,
        "R",
        lambda value: value > 0,
        "a number greater than 0",
        "the probability of a token that a text has had is taken to the power of R; above 1: less repetition "
        "(default: 1)",
        kind="text",
        native=False,
    )
    """Power of the probability of each token that a sequence has had, its prompt included; 1 is off. It is applied
    before all others."""

    @property
    def eager_only(self) -> bool:
        """Whether a filter is on that the eager engine alone has."""
        return any(getattr(self, each.name) != each.default for each in fields(self) if not each.metadata["native"])

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and each.metadata["accept"](value)):
                name, expected = each.name.replace("_", "-"), each.metadata["expected"]
                raise UserError(f"{name} is {value}, it must be {expected}")
