"""The settings of the filters that stand between a model's output and a draw, as one checked value.

To add a filter, add a field here, a function and its place in the chain in `sampling.filters`, and a field and a line
in `sampling/engines/native/draw.h`. Everything else (command line, engines, packing for the native engine, suspended
generations) goes by the fields of `FilterSettings`.
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
    """Declare a setting, with all that the rest of the package needs to know of it.

    Args:
        default: the value with which the filter is off. If it is an int, the setting takes whole numbers only.
        metavar: the letter for a value in the help of the command line.
        accept: the function that says whether a value is in range.
        expected: the same range in words.
        help: the help of the command line.
        kind: the kind of model for which the command line has this setting; empty for all.
        native: whether the native engine has this filter.
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
    """The settings of all filters, in the order in which they are applied, except that the last one is applied first.

    The native engine's `struct Filters` (`sampling/engines/native/draw.h`) has those that are native in the same order,
    because they are handed over as bytes.

    With the defaults every filter is off and keeps all tokens.

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
    """The number by which logits are divided. Below 1 it sharpens the distribution; 0 takes the likeliest token."""
    top_k: int = _setting(
        0, "K", lambda value: value >= 0, "at least 0", "draw from the K likeliest values only (0: all)"
    )
    """Number of tokens that are kept; 0 is off."""
    top_p: float = _setting(
        1.0,
        "P",
        lambda value: 0 < value <= 1,
        "a number greater than 0, at most 1",
        "draw from the likeliest values that make up probability P (default: 1)",
    )
    """Probability that the kept tokens have together, at least; 1 is off."""
    min_p: float = _setting(
        0.0,
        "P",
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "leave out values less likely than P times the likeliest (default: 0)",
    )
    """Least probability of a kept token, as a share of that of the likeliest one; 0 is off."""

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
    """Power to which the probability of each token is taken that a sequence already has, its prompt included; 1 is off.
    It is applied before all others."""

    @property
    def eager_only(self) -> bool:
        """Whether a filter is on that only the eager engine has."""
        return any(getattr(self, each.name) != each.default for each in fields(self) if not each.metadata["native"])

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            # Infinity would pass a range such as "at least 0".
            if not (math.isfinite(value) and each.metadata["accept"](value)):
                name, expected = each.name.replace("_", "-"), each.metadata["expected"]
                raise UserError(f"{name} is {value}, it must be {expected}")
