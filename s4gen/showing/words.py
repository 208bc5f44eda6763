"""Put numbers into the words of messages."""

from __future__ import annotations

import math


def plural(n: int, noun: str) -> str:
    """Return a number with its noun, such as "1 clip" or "1,000 clips"; the plural of the noun ends in s."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def with_error(value: float, stderr: float, digits: int = 4) -> str:
    """Return a value and its standard error, or the value alone if one sequence leaves the error unknown (NaN)."""
    shown = f"{value:.{digits}f}"
    return shown if math.isnan(stderr) else f"{shown} ± {stderr:.{digits}f}"
