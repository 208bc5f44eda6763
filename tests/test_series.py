"""Series to forecast: CSV files, their parts, their standardisation, and the features of their times."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s4gen.config import DataConfig, TaskConfig
from s4gen.data.examples import Series, windows
from s4gen.data.labelled import open_series
from s4gen.data.labelled.times import keeps_pace, step_between, time_features
from s4gen.errors import UserError

START = datetime(2016, 7, 1)
TASK = TaskConfig("forecast", window=4, horizon=2)


def lines_of(
    n: int, step: timedelta = timedelta(hours=1), columns: Sequence[str] = ("a", "OT"), name: str = "date"
) -> list[list[str]]:
    """Return the lines of a file: names, then a time and numbers in each."""
    random = np.random.default_rng(0)
    rows = [[str(START + i * step), *map(str, random.normal(3, 2, len(columns)))] for i in range(n)]
    return [[name, *columns], *rows]


def save(path: Path, lines: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def opened(path: Path | str, task: TaskConfig = TASK, **settings: Any) -> Series:
    return open_series(DataConfig(f"csv:{path}", **settings), task)


def test_any_csv_with_a_time_column(tmp_path: Path) -> None:
    path = save(tmp_path / "some.csv", lines := lines_of(100))
    series = opened(path)
    assert series.borders == ((0, 70), (70, 80), (80, 100)) and series.columns == ("a", "OT")
    values = np.array([[float(word) for word in row[1:]] for row in lines[1:]])
    assert series.values.dtype == np.float32
    assert np.allclose(series.values * series.std + series.mean, values, atol=1e-5)
    assert np.allclose(series.mean, values[:70].mean(0)) and np.allclose(series.std, values[:70].std(0))
    assert np.allclose(series.values[:70].mean(0), 0, atol=1e-6) and np.allclose(
        series.values[:70].std(0), 1, atol=1e-6
    )
    assert series.time_names == ("hour", "weekday", "day", "yearday") and series.times.shape == (100, 4)
    assert series.notes == ()
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert (opened(packed).values == series.values).all()


def test_columns_are_those_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "some.csv", lines_of(60, columns=("x", "y", "z")))
    every = opened(path)
    assert opened(path, TaskConfig("forecast", window=4, horizon=2, targets=("y",))).columns == ("y",)
    chosen = opened(path, TaskConfig("forecast", window=4, horizon=2, targets=("z",)), columns=("z", "x"))
    assert chosen.columns == ("z", "x") and (chosen.values == every.values[:, [2, 0]]).all()
    with pytest.raises(UserError, match=r"task.targets has y, which is not in data.columns"):
        opened(path, TaskConfig("forecast", window=4, horizon=2, targets=("y",)), columns=("x",))


def test_text_in_a_column_that_is_not_read_does_no_harm(tmp_path: Path) -> None:
    lines = lines_of(60, columns=("x", "y"))
    lines[7][2] = "closed"
    assert opened(save(tmp_path / "some.csv", lines), columns=("x",)).columns == ("x",)


def test_files_called_ett_are_parted_as_in_informer(tmp_path: Path) -> None:
    month = 30 * 24
    series = opened(save(tmp_path / "ETTh9.csv", lines_of(20 * month + 5, columns=("OT",))))
    assert series.borders == ((0, 12 * month), (12 * month, 16 * month), (16 * month, 20 * month))
    assert series.notes == ("5 of 14,405 rows lie behind the test part",)
    minutes = save(tmp_path / "ETTm9.csv", lines_of(100, timedelta(minutes=15), ("OT",)))
    with pytest.raises(UserError, match="100 rows, too few for train, validation and test of 34560, 11520, 11520"):
        opened(minutes)
    assert opened(minutes, splits=(60, 20, 10)).borders == ((0, 60), (60, 80), (80, 90))


def test_windows_of_each_part(tmp_path: Path) -> None:
    series = opened(save(tmp_path / "some.csv", lines_of(100)))
    # 70, 10 and 20 rows: what is forecast lies in the part, what is read may lie before it.
    assert windows(series, "train", 4, 2).tolist() == list(range(65))
    assert windows(series, "validation", 4, 2).tolist() == list(range(66, 75))
    assert windows(series, "test", 4, 2).tolist() == list(range(76, 95))
    with pytest.raises(UserError, match=r"too few for task.window = 4 and task.horizon = 11"):
        windows(series, "validation", 4, 11)


def test_features_of_times_are_those_of_informer() -> None:
    """Sunday, 31 December 2017, 23:00, is the last of everything, and Monday, 1 January, 0:00, the first."""
    times = np.array(["2017-12-31T23:00", "2018-01-01T00:00", "2018-01-01T01:00"], "datetime64[s]")
    names, features = time_features(times)
    assert names == ("hour", "weekday", "day", "yearday")
    assert features[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 364 / 365 - 0.5])
    assert features[1].tolist() == [-0.5] * 4
    assert features[2, 0] == pytest.approx(1 / 23 - 0.5)
    assert features.dtype == np.float32


@pytest.mark.parametrize(
    ("step", "names"),
    [
        ("1s", ("second", "minute", "hour", "weekday", "day", "yearday")),
        ("15m", ("minute", "hour", "weekday", "day", "yearday")),
        ("1D", ("weekday", "day", "yearday")),
        ("31D", ("month",)),
    ],
)
def test_features_are_no_finer_than_the_rows(step: str, names: tuple[str, ...]) -> None:
    number, unit = int(step[:-1]), step[-1]
    times = np.datetime64("2000-01-01", "s") + np.arange(2000) * np.timedelta64(number, unit)  # type: ignore[call-overload]
    found, features = time_features(times)
    assert found == names and features.min() == -0.5 and features.max() <= 0.5
    dates = times.astype(datetime)
    column = dict(zip(found, features.T, strict=True))
    wanted: dict[str, Any] = {
        "second": lambda date: date.second / 59,
        "minute": lambda date: date.minute / 59,
        "hour": lambda date: date.hour / 23,
        "weekday": lambda date: date.weekday() / 6,
        "day": lambda date: (date.day - 1) / 30,
        "yearday": lambda date: (date.timetuple().tm_yday - 1) / 365,
        "month": lambda date: (date.month - 1) / 11,
    }
    for name in names:
        assert np.allclose(column[name], [wanted[name](date) - 0.5 for date in dates], atol=1e-6)


def test_a_row_keeps_pace_in_seconds_or_in_months() -> None:
    hours = np.datetime64("2020-01-31T22", "s") + np.array([0, 1, 30, 31]) * np.timedelta64(1, "h")
    assert keeps_pace(hours) and step_between(hours[:2]) == "1 h"
    assert not keeps_pace(hours[[0, 1, 2, 2]]) and not keeps_pace(hours[[0, 1, 1, 3]])
    months = np.array(["2020-01-01", "2020-02-01", "2020-02-01", "2020-03-01", "2020-05-01"], "datetime64[s]")
    assert keeps_pace(months[:4]) and not keeps_pace(months[[0, 1, 3, 4]]) and step_between(months[:2]) == "a month"


def test_months_of_the_calendar_are_regular(tmp_path: Path) -> None:
    lines = [["Month", "x"]] + [[f"{2000 + m // 12}-{m % 12 + 1:02}-01", str(m % 7)] for m in range(48)]
    assert opened(save(tmp_path / "m.csv", lines), time_column="Month").time_names == ("month",)
    del lines[20]
    with pytest.raises(
        UserError,
        match="line 21: a gap in time, from 2001-07-01 00:00:00 to 2001-09-01 00:00:00, where rows are a month",
    ):
        opened(save(tmp_path / "m.csv", lines), time_column="Month")


def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path) -> None:
    def case(change: Any, **settings: Any) -> str:
        lines = lines_of(40)
        changed = change(lines)
        path = save(tmp_path / "bad.csv", changed if isinstance(changed, list) else lines)
        with pytest.raises(UserError) as caught:
            opened(path, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(str(path))

    def put(line: int, column: int, text: str) -> Any:
        def change(lines: list[list[str]]) -> None:
            lines[line - 1][column] = text

        return change

    def without(line: int) -> Any:
        return lambda lines: lines[: line - 1] + lines[line:]

    hours = "from 2016-07-01 08:00:00 to 2016-07-01 10:00:00, where rows are 1 h apart"
    assert case(without(11)) == f", line 11: a gap in time, {hours}; fill it in, or cut the file there"
    assert ", line 2: a gap" not in case(without(11)) and ", line 3: a gap" in case(without(3))
    assert "line 9: the time 2016-07-01 06:00:00 is the same as that of the row above" in case(
        put(9, 0, "2016-07-01 06:00:00")
    )
    assert "line 9: the time 2016-06-30 00:00:00 lies before that of the row above" in case(put(9, 0, "2016-06-30"))
    assert "line 5, column OT: 'high' is no number" in case(put(5, 2, "high"))
    assert "line 6, column a: nothing is there; fill it in" in case(put(6, 1, ""))
    for word in ("nan", "NaN", "-inf"):
        assert f"line 7, column a: {word} is not a finite number" in case(put(7, 1, word))
    assert "line 8: '1.7.2016' is no time; expected one such as 2016-07-01 00:00:00" in case(put(8, 0, "1.7.2016"))
    assert "line 4: 2 values, expected 3" in case(lambda lines: lines[3].pop())
    assert "has no column date, time, datetime or timestamp, but when, a, OT" in case(put(1, 0, "when"))
    assert "has no column ot, but date, a, OT; did you mean OT?" in case(put(1, 0, "date"), columns=("ot",))
    assert "has no column b" in case(
        put(1, 0, "date"), task=TaskConfig("forecast", window=4, horizon=2, targets=("b",))
    )
    assert "too few for train, validation and test of 30, 8, 9" in case(put(1, 0, "date"), splits=(30, 8, 9))
    assert "has no rows below its line of names" in case(lambda lines: lines[:1])
    assert "has one row" in case(lambda lines: lines[:2])
    assert "is empty" in case(lambda _: [])
    assert "no column of numbers beside the time date" in case(lambda lines: [line[:1] for line in lines])

    def constant(lines: list[list[str]]) -> None:
        for line in lines[1:]:
            line[1] = "4"

    assert "the column a is one number in all training rows" in case(constant)
    assert "has 2 columns called a: give each a name of its own" in case(put(1, 2, "a"))
    for line in (4, 38):  # in the training part, whose deviation overflows, and behind it
        assert "numbers of the column OT are too large to be standardised" in case(put(line, 2, "1e308"))


def test_times_of_all_kinds(tmp_path: Path) -> None:
    fast = save(tmp_path / "fast.csv", lines_of(50, timedelta(milliseconds=10)))
    assert opened(fast).time_names[0] == "second"
    lines = lines_of(50, timedelta(milliseconds=10))
    with pytest.raises(UserError, match=r"line 9: a gap in time, .* where rows are 10 ms apart"):
        opened(save(tmp_path / "fast.csv", [*lines[:8], *lines[9:]]))
    # The hour that is there twice when summer ends is no repetition where the zone is said.
    hours = [
        f"2023-10-29T{h:02}:00:00{zone}" for h, zone in ((1, "+02:00"), (2, "+02:00"), (2, "+01:00"), (3, "+01:00"))
    ]
    rows = [[time, str(number)] for number, time in enumerate(hours)]
    assert opened(save(tmp_path / "zone.csv", [["Time", "x"], *rows]), splits=(2, 1, 1)).time_names[0] == "hour"


def test_what_is_no_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        opened(tmp_path / "missing.csv")
    with pytest.raises(UserError, match="that is a folder"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"no ETTh1: set S4GEN_DATA to a folder that holds ett/ETTh1.csv"):
        opened("ETTh1")
    (tmp_path / "wide.csv").write_text("date,x\n2016-01-01,1\n", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        opened(tmp_path / "wide.csv")
    (tmp_path / "latin.csv").write_bytes("date,été\n2016-01-01,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no CSV file in UTF-8"):
        opened(tmp_path / "latin.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(save(tmp_path / "whole.csv", lines_of(60)).read_bytes())[:-9])
    with pytest.raises(UserError, match="damaged"):
        opened(tmp_path / "cut.csv.gz")
    (tmp_path / "ett").mkdir()
    save(tmp_path / "ett" / "ETTh1.csv", lines_of(40))
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    assert len(opened("ETTh1", splits=(20, 10, 10)).values) == 40


@pytest.mark.data
def test_the_real_transformers() -> None:
    task = TaskConfig("forecast", window=720, horizon=24, targets=("OT",))
    series = opened("ETTh1", task)
    assert series.borders == ((0, 8640), (8640, 11520), (11520, 14400))
    assert [len(windows(series, split, 720, 24)) for split in ("train", "validation", "test")] == [7897, 2857, 2857]
    # Mean and standard deviation of the oil temperature in the first 12 months, known from Informer's scaler.
    assert (float(series.mean[0]), float(series.std[0])) == pytest.approx((17.1282617, 9.1764915), abs=1e-3)
    assert opened("ETTh2").values.shape == (17_420, 7)
