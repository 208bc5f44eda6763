"""What every check of a value has in common: the error, and the sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s4gen.errors import UserError


class ConfigError(UserError):
    """A value that cannot be. By `key`, its dotted name, a loader finds where the value came from."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key


def one_of(allowed: Sequence[str], key: str, value: str) -> None:
    if value not in allowed:
        raise ConfigError(key, f'= "{value}": expected one of {", ".join(allowed)}')


def at_least(least: int, section: str, **values: int) -> None:
    for key, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected at least {least}")


def positive(section: str, **values: float) -> None:
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected a number greater than 0")
