"""A CSV file with a time column, as times and numbers; what is wrong with it is said with the number of its line."""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4gen.data.text.reading import open_unpacked, refuse_wide, unreadable
from s4gen.errors import UserError

TIMES = ("date", "time", "datetime", "timestamp")
"""The names by which a column of times is recognised, in capitals or not."""

Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Table:
    """The rows of a file in their order."""

    path: Path
    times: Times
    """(n,) datetime64 in microseconds."""
    values: NDArray[np.float64]
    """(n, C)."""
    columns: tuple[str, ...]
    """Names of the C columns."""
    lines: NDArray[np.int64]
    """(n,) the line of the file that each row is in, the first one being 1."""


def read_table(path: Path, time_column: str = "", columns: Sequence[str] = ()) -> Table:
    """Read the time and some columns of a CSV file, gzipped or not; empty: all columns but the time.

    Raises:
        UserError: the file is missing, damaged or empty; a column is missing; a line has too few values, something that
            is no number or is not finite, or no time.
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    if not any(header):
        raise UserError(f"{path} is empty: expected a line of names, then rows of a time and numbers")
    time = _time_column(path, header, time_column)
    chosen = tuple(columns) or tuple(name for number, name in enumerate(header) if number != time)
    numbers = [_column(path, header, name) for name in chosen]
    if time in numbers or not numbers:
        raise UserError(f"{path}: there is no column of numbers beside the time {header[time]}; add one")
    times, values, lines = [], [], []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(row)} values, expected {len(header)}, as the first line has names"
            )
        times.append(_time(path, line, row[time]))
        values.append([_number(path, line, header[number], row[number]) for number in numbers])
        lines.append(line)
    if not values:
        raise UserError(f"{path} has no rows below its line of names: expected a time and numbers in each")
    return Table(path, np.array(times, "datetime64[us]"), np.array(values), chosen, np.array(lines))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, split into values, with their numbers."""
    try:
        with open_unpacked(path) as binary:
            begin = binary.read(256)
            refuse_wide(begin, path)
            binary.seek(0)
            reader = csv.reader(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=""))
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}): convert it") from error


def _time_column(path: Path, header: list[str], wanted: str) -> int:
    if wanted:
        return _column(path, header, wanted)
    found = [number for number, name in enumerate(header) if name.casefold() in TIMES]
    if not found:
        raise UserError(
            f"{path} has no column {', '.join(TIMES[:-1])} or {TIMES[-1]}, but {', '.join(header)}: set "
            "data.time_column"
        )
    return found[0]


def _column(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        near = [known for known in header if known.casefold() == name.casefold()] or get_close_matches(name, header)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{path} has no column {name}, but {', '.join(header)}{hint}")
    return header.index(name)


def _time(path: Path, line: int, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UserError(
            f"{path}, line {line}: {text!r} is no time; expected one such as 2016-07-01 00:00:00"
        ) from error
    # With a zone, in which an hour may be there twice or not at all, times are those of UTC.
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        what = f"{text!r} is no number" if text.strip() else "nothing is there"
        raise UserError(
            f"{path}, line {line}, column {column}: {what}; fill it in, or leave the column out of data.columns"
        ) from error
    if not math.isfinite(value):
        raise UserError(f"{path}, line {line}, column {column}: {text.strip()} is not a finite number; fill it in")
    return value
