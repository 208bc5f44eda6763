"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Return a number with three digits, or with all of those before the point; "-" where it is not finite."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """Return a fraction in whole percent; "-" where it is not finite."""
    return f"{value:.0%}" if math.isfinite(value) else "-"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return one line for each row of cells, in columns: the first is aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
