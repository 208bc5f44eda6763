"""Rows of a CSV stream as a forecaster reads them: standardised as in training, with the features of their times."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from s4gen.config import SeriesLayout
from s4gen.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def csv_rows(binary: BinaryIO, name: str, layout: SeriesLayout) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of a CSV file with a line of names, standardised as in training, with the features of the time."""
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    try:
        yield from _standardised(csv.reader(text), name, layout)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no CSV file in UTF-8 ({error}): convert it") from error
    except csv.Error as error:
        raise UserError(f"{name} is no CSV file: {error}") from error
    finally:
        text.detach()  # or it would close what it reads, which is not its own


def _standardised(reader: Any, name: str, layout: SeriesLayout) -> Iterator[NDArray[np.float32]]:
    import numpy as np

    header = [column.strip() for column in next(reader, [])]
    if not header:
        return
    if missing := [column for column in layout.columns if column not in header]:
        raise UserError(
            f"{name} has no column {missing[0]}, but {', '.join(header)}; its first line must hold the names"
        )
    if repeated := [column for column in layout.columns if header.count(column) > 1]:
        raise UserError(f"{name} has {header.count(repeated[0])} columns called {repeated[0]}: leave one of them")
    places = [header.index(column) for column in layout.columns]
    clock = _Clock(header, name, layout.times) if layout.times else None
    mean, std = np.array(layout.mean), np.array(layout.std)
    for row in reader:
        where = f"{name}, line {reader.line_num}"
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(f"{where}: {len(row)} values, expected {len(header)}, as the first line has names")
        values = (np.array([_number(row[place], where, header[place]) for place in places]) - mean) / std
        check_range(values, where, layout)
        if clock is None:
            yield values.astype(np.float32)
        else:
            yield from clock.joined(row, values, where)
    if clock is not None:
        yield from clock.rest(name)


def _number(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        what = f"{text!r} is no number" if text.strip() else "nothing is there"
        raise UserError(f"{where}, column {column}: {what}; the answer is of the rows before it") from None
    if not math.isfinite(value):
        raise UserError(
            f"{where}, column {column}: {text.strip()} is not a finite number; the answer is of the rows before it"
        )
    return value


def check_range(values: NDArray[np.float64], where: str, layout: SeriesLayout) -> None:
    """Refuse standardised values (C,) that are finite but too large for float32; `where` names the row."""
    import numpy as np

    large = np.abs(values) > np.finfo(np.float32).max
    if large.any():
        raise UserError(
            f"{where}, column {layout.columns[int(large.argmax())]}: the number is too large to be standardised in "
            "float32; the answer is of the rows before it"
        )


class _Clock:
    """Adds the features of the time to rows, and refuses a gap between them, over which no model was trained.

    Which features there are depends on the distance of rows, so the first row waits for the second.
    """

    def __init__(self, header: Sequence[str], name: str, wanted: tuple[str, ...]) -> None:
        from s4gen.data.labelled.csv_table import TIMES

        found = [place for place, column in enumerate(header) if column.casefold() in TIMES]
        if not found:
            raise UserError(
                f"{name} has no column {', '.join(TIMES)}, and the model reads the time: {', '.join(wanted)}"
            )
        self._place, self._wanted, self._name = found[0], wanted, name
        self._before: Any = None
        self._waiting: Any = None
        self._pair: tuple[Any, ...] = ()
        """The times of the first two rows, which say how far apart all are."""

    def joined(self, row: Sequence[str], values: Any, where: str) -> Iterator[Any]:
        """Yield this row, with the one that has waited for it, if there is one."""
        import numpy as np

        from s4gen.data.labelled.times import keeps_pace, shown, step_between, time_features

        try:
            time = np.datetime64(datetime.fromisoformat(row[self._place].strip()).replace(tzinfo=None), "s")
        except ValueError:
            raise UserError(f"{where}: {row[self._place]!r} is no time, such as 2016-07-01 00:00:00") from None
        if self._before is None:
            self._before, self._waiting = time, values
            return
        if time <= self._before:
            raise UserError(f"{where}: the time {row[self._place]} is not after that of the row above")
        pair = (self._before, time)
        self._pair = self._pair or pair
        if not keeps_pace(np.array([*self._pair, *pair])):
            raise UserError(
                f"{where}: a gap in time, from {shown(self._before)} to {shown(time)}, where rows are "
                f"{step_between(np.array(self._pair))} apart; the answer is of the rows before it"
            )
        names, features = time_features(np.array(pair))
        if names != self._wanted:
            raise UserError(
                f"{where}: rows at this distance have {', '.join(names)}, the model reads {', '.join(self._wanted)}"
            )
        if self._waiting is not None:
            yield np.concatenate((self._waiting, features[0])).astype(np.float32)
            self._waiting = None
        self._before = time
        yield np.concatenate((values, features[1])).astype(np.float32)

    def rest(self, name: str) -> Iterator[Any]:
        """Refuse a stream of one row, whose features nobody knows."""
        if self._waiting is not None:
            raise UserError(f"{name} has one row: two are needed to know how far apart they are")
        yield from ()
