"""Times of a series: whether they are regular, and features of them that a model can read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s4gen.data.labelled.csv_table import Table, Times
from s4gen.errors import UserError

_DAY = np.timedelta64(1, "D")
_HOUR = np.timedelta64(1, "h")


def check_regular(table: Table) -> None:
    """Refuse rows that are not equally far apart, in seconds or in months of the calendar.

    Raises:
        UserError: there are fewer than two rows; a time is repeated, lies before the one above, or leaves a gap.
    """
    times = table.times
    if len(times) < 2:
        raise UserError(f"{table.path} has one row: expected many, equally far apart in time")
    steps = np.diff(times)
    # The usual step: of most rows, so that it is known also where the first ones are at fault.
    found, counts = np.unique(steps, return_counts=True)
    usual = found[counts.argmax()]
    if (usual > 0) and (steps == usual).all():
        return
    for what, wrong in (("is the same as", steps == 0), ("lies before", steps < 0)):
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise UserError(
                f"{table.path}, line {table.lines[row]}: the time {_show(times[row])} {what} that of the row above; "
                "expected each time once, in order"
            )
    if not _is_monthly(times):
        row = int((steps != usual).argmax()) + 1
        raise UserError(
            f"{table.path}, line {table.lines[row]}: a gap in time, from {_show(times[row - 1])} to "
            f"{_show(times[row])}, where rows are {_duration(usual)} apart; fill it in, or cut the file there"
        )


def _is_monthly(times: Times) -> bool:
    """Return whether all rows are the same number of months apart, at the same day and time of the month."""
    months = times.astype("datetime64[M]")
    inside = times - months.astype(times.dtype)
    return bool((inside == inside[0]).all() and len(np.unique(np.diff(months))) == 1)


def _show(time: np.datetime64) -> str:
    return str(time).replace("T", " ")


def _duration(step: np.timedelta64) -> str:
    seconds = int(step / np.timedelta64(1, "s"))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def time_features(times: Times) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return names and values (n, F) of the features of times at least two rows long, each from -0.5 to 0.5.

    They are those of Informer's code (arXiv 2012.07436, after GluonTS): minute of the hour, hour of the day, day of the
    week, of the month and of the year, and month of the year; of these only what changes from row to row and is not
    finer than their distance. Hourly rows have hour, weekday, day and yearday.
    """
    step = times[1] - times[0]
    days = times.astype("datetime64[D]")
    months, years = times.astype("datetime64[M]"), times.astype("datetime64[Y]")
    seconds = (times - days.astype(times.dtype)).astype(np.int64)
    features = {
        "second": (seconds % 60, 59),
        "minute": (seconds // 60 % 60, 59),
        "hour": (seconds // 3600, 23),
        "weekday": ((days.astype(np.int64) + 3) % 7, 6),  # day 0, 1 January 1970, was a Thursday
        "day": ((days - months.astype("datetime64[D]")).astype(np.int64), 30),
        "yearday": ((days - years.astype("datetime64[D]")).astype(np.int64), 365),
        "month": ((months - years.astype("datetime64[M]")).astype(np.int64), 11),
    }
    if step < np.timedelta64(1, "m"):
        names = ["second", "minute", "hour", "weekday", "day", "yearday"]
    elif step < _HOUR:
        names = ["minute", "hour", "weekday", "day", "yearday"]
    elif step < _DAY:
        names = ["hour", "weekday", "day", "yearday"]
    elif step < 28 * _DAY:
        names = ["weekday", "day", "yearday"]
    else:
        names = ["month"]
    columns = [features[name][0] / features[name][1] - 0.5 for name in names]
    return tuple(names), np.stack(columns, 1).astype(np.float32)
