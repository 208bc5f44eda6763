"""Checks of single values: the error that all of them raise, and the sentences of its messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s4gen.errors import UserError, shortened


class ConfigError(UserError):
    """An invalid value. `key` is its dotted name, by which a loader finds the file or option that it came from."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {shortened(problem, 600)}")  # it quotes a value, which may be of any length
        self.key = key


def one_of(allowed: Sequence[str], key: str, value: str) -> None:
    """Raise ConfigError unless the value is one of those allowed."""
    if value not in allowed:
        raise ConfigError(key, f'= "{value}": expected one of {", ".join(allowed)}')


def at_least(least: int, section: str, **values: int) -> None:
    """Raise ConfigError unless every value, named by its key in the section, is at least `least`."""
    for key, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected at least {least}")


def at_most(most: int, section: str, **values: int) -> None:
    """Raise ConfigError unless every value, named by its key in the section, is at most `most`."""
    for key, value in values.items():
        if value > most:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected at most {most}")


def positive(section: str, **values: float) -> None:
    """Raise ConfigError unless every value, named by its key in the section, is finite and greater than 0."""
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected a number greater than 0")
