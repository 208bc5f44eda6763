"""Say what is expected of a value that was read from a file: a small schema of types and ranges.

A check is a function that takes a value and its name, and returns the value; for any other value it raises ValueError
in words for a message. Checks are put together:

    progress = table({"step": whole(most=10**6), "seconds": number(least=0), "names": items(text())})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from s4gen.errors import shortened

Check = Callable[[Any, str], Any]
"""A check takes a value and its name, and returns the value or raises ValueError."""
LARGEST = 2**63 - 1


def whole(least: int = 0, most: int = LARGEST) -> Check:
    """Expect a whole number from `least` to `most`."""

    def check(value: Any, name: str) -> int:
        # `type` and not isinstance: a bool is an int to Python, but `true` is no number here.
        if type(value) is not int or not least <= value <= most:
            most_said = "2**63 - 1" if most == LARGEST else str(most)
            raise _wrong(name, value, f"a whole number from {least} to {most_said}")
        return value

    return check


def number(least: float = -math.inf, most: float = math.inf, finite: bool = True) -> Check:
    """Expect a number from `least` to `most`; unless `finite`, NaN and the infinities will do, too."""

    def check(value: Any, name: str) -> float:
        if type(value) not in (int, float) or (finite and not math.isfinite(value)) or value < least or value > most:
            bounds = "" if (least, most) == (-math.inf, math.inf) else f" from {least:g} to {most:g}"
            raise _wrong(name, value, f"a number{bounds}")
        return float(value)

    return check


def text(most: int = 1 << 16) -> Check:
    """Expect a string of at most `most` characters."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise _wrong(name, value, f"a string of at most {most:,} characters")
        return value

    return check


def one_of(allowed: Collection[Any]) -> Check:
    """Expect one of these strings or whole numbers."""

    def check(value: Any, name: str) -> Any:
        if type(value) not in (str, int) or value not in allowed:
            raise _wrong(name, value, f"one of {', '.join(map(repr, allowed))}")
        return value

    return check


def flag(value: Any, name: str) -> bool:
    """Expect true or false. This is a check itself."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def anything(value: Any, name: str) -> Any:
    """Expect nothing: every value will do. This is a check itself."""
    return value


def optional(check: Check) -> Check:
    """Expect null, or what `check` expects."""
    return lambda value, name: None if value is None else check(value, name)


def items(check: Check, least: int = 0, most: int = LARGEST) -> Check:
    """Expect a list of `least` to `most` items, each of which `check` accepts."""

    def checked(value: Any, name: str) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            count = str(least) if least == most else f"{least} or more" if most == LARGEST else f"{least} to {most}"
            raise _wrong(name, value, f"a list of {_items(count)}")
        return [check(item, f"{name}[{number}]") for number, item in enumerate(value)]

    return checked


def mapping(check: Check) -> Check:
    """Expect a table of any keys, each value of which `check` accepts."""

    def checked(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "a table")
        return {key: check(item, f"{name}.{shortened(key, 60)}") for key, item in value.items()}

    return checked


def table(required: Mapping[str, Check], also: Mapping[str, Check] | None = None, others: Check | None = None) -> Check:
    """Expect a table with all keys of `required`, and perhaps keys of `also`; their values are checked.

    With `others`, the table may have further keys, as files of later versions might, whose values that check accepts.
    """
    known = {**required, **(also or {})}

    def check(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "a table")
        for key in required:
            if key not in value:
                raise ValueError(f"{_joined(name, key)} is missing")
        found = {}
        for key, item in value.items():
            checks = known.get(key, others)
            if checks is None:
                raise ValueError(f"{_joined(name, shortened(str(key), 60))} is unknown")
            found[key] = checks(item, _joined(name, shortened(str(key), 60)))
        return found

    return check


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name or 'the whole'} = {shown(value)}: expected {expected}")


def _items(count: int | str) -> str:
    return f"{count} item{'' if str(count) == '1' else 's'}"


def shown(value: Any, most: int = 60) -> str:
    """Return a value as messages quote it: as JSON would write it, and in at most `most` characters."""
    if isinstance(value, str):
        return shortened(f'"{value}"', most)
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {_items(len(value))}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shortened(str(value), most)
