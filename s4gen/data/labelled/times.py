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
    apart = np.diff(times).astype(np.int64)  # microseconds
    for what, wrong in (("is the same as", apart == 0), ("lies before", apart < 0)):
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise UserError(
                f"{table.path}, line {table.lines[row]}: the time {shown(times[row])} {what} that of the row above; "
                "expected each time once, in order"
            )
    if (apart == apart[0]).all():
        return
    steps = _months(times) if _is_by_month(times) else apart
    # The usual step is that of most rows, so that it is known also where the first ones are at fault.
    found, counts = np.unique(steps, return_counts=True)
    usual = int(found[counts.argmax()])
    if (steps != usual).any():
        row = int((steps != usual).argmax()) + 1
        raise UserError(
            f"{table.path}, line {table.lines[row]}: a gap in time, from {shown(times[row - 1])} to "
            f"{shown(times[row])}, where rows are {_step(times, usual)} apart; fill it in, or cut the file there"
        )


def keeps_pace(times: Times) -> bool:
    """Return whether the last of four times follows the third as the second follows the first.

    Both are as far apart in seconds, or in months of the calendar.
    """
    steps = np.diff(times)
    months = _months(times)
    return bool(steps[0] == steps[2] or (_is_by_month(times) and months[0] == months[2]))


def step_between(pair: Times) -> str:
    """Return how far apart two times are, for people, such as 1 h."""
    steps = _months(pair) if _is_by_month(pair) else np.diff(pair).astype("timedelta64[us]").astype(np.int64)
    return _step(pair, int(steps[0]))


def _step(times: Times, step: int) -> str:
    """Return a step for people, which is in months if all times are at the same moment of a month."""
    return _in_months(step) if _is_by_month(times) else _in_units(step)


def _is_by_month(times: Times) -> bool:
    """Return whether all times are at the same moment of a month, such as 0:00 on the first day."""
    inside = times - times.astype("datetime64[M]").astype(times.dtype)
    return bool((inside == inside[0]).all())


def _months(times: Times) -> NDArray[np.int64]:
    """Return how many months of the calendar lie between neighbouring times."""
    return np.diff(times.astype("datetime64[M]")).astype(np.int64)


def _in_months(step: int) -> str:
    return f"{step} months" if step > 1 else "a month"


def _in_units(microseconds: int) -> str:
    for size, unit in ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s")):
        if microseconds % size == 0:
            return f"{microseconds // size} {unit}"
    return f"{microseconds / 1000:g} ms"


def shown(time: np.datetime64) -> str:
    """Return a time for people, such as 2016-07-01 00:00:00."""
    return str(time).replace("T", " ").removesuffix(".000000")


def time_features(times: Times) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return names and values (n, F) of the features of times at least two rows long, each from -0.5 to 0.5.

    They are those of Informer's code (arXiv 2012.07436, after GluonTS): minute of the hour, hour of the day, day of the
    week, of the month and of the year, and month of the year; of these only what changes from row to row and is not
    finer than their distance. Hourly rows have hour, weekday, day and yearday.
    """
    step = times[1] - times[0]
    days = times.astype("datetime64[D]")
    months, years = times.astype("datetime64[M]"), times.astype("datetime64[Y]")
    seconds = (times - days.astype(times.dtype)).astype("timedelta64[s]").astype(np.int64)
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
