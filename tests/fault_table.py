"""The table at the end of `make test-faults`: what was tried, what survived, and how many bytes were lost.

A test with the mark `faults(row)` counts in a row. It may say more by the fixture `note`; one that says nothing counts
once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

WIDTH = 44


class Note(Protocol):
    """Adds to the table."""

    def __call__(self, row: str, tried: int, survived: int, remark: str = "", lost: int = 0) -> None:
        """Add what was tried to a row; `lost` are bytes of results that were not there, or others, afterwards."""


def rows_of(reports: Iterable[Any]) -> dict[str, tuple[int, int, int, str]]:
    """Return tried, survived, bytes lost and a remark by row, from the reports of all tests."""
    rows: dict[str, tuple[int, int, int, str]] = {}
    for report in reports:
        properties = [value for name, value in getattr(report, "user_properties", ()) if name == "fault"]
        marked = [value for name, value in getattr(report, "user_properties", ()) if name == "faults"]
        if report.skipped or not marked:
            continue
        if report.failed and not any(tried != survived for _, tried, survived, _, _ in properties):
            properties = [[marked[0], 1, 0, "the test failed", 0]]
        for row, tried, survived, remark, lost in properties or [[marked[0], 1, int(report.passed), "", 0]]:
            before = rows.get(row, (0, 0, 0, ""))
            rows[row] = (before[0] + tried, before[1] + survived, before[2] + lost, remark or before[3])
    return rows


def table(rows: dict[str, tuple[int, int, int, str]]) -> list[str]:
    """Return the lines of the table, with a sum at its end."""
    lines = [f"{'fault':<{WIDTH}} {'tried':>7} {'survived':>9} {'bytes lost':>11}"]
    for row, (tried, survived, lost, remark) in rows.items():
        lines.append(f"{row:<{WIDTH}} {tried:>7,} {survived:>9,} {lost:>11,}  {remark}".rstrip())
    tried, survived, lost = (sum(row[i] for row in rows.values()) for i in range(3))
    return [*lines, f"{'all':<{WIDTH}} {tried:>7,} {survived:>9,} {lost:>11,}"]
