"""Series to forecast, from any CSV file with a time column, parted and standardised as in Informer (arXiv 2012.07436).

ETTh1 and ETTh2 (the oil temperature of two transformers and six loads, hourly for two years; Zhou et al., AAAI 2021)
are csv:ETTh1 and csv:ETTh2, if the folder ett of S4GEN_DATA holds them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from s4gen.config import DataConfig, TaskConfig
from s4gen.config.names import CSV_PREFIX
from s4gen.data.examples import Series
from s4gen.data.labelled.csv_table import Table, read_table
from s4gen.data.labelled.times import check_regular, time_features
from s4gen.data.store import data_folder
from s4gen.errors import UserError
from s4gen.files.folders import user_path

ETT = "ett"
"""The folder of S4GEN_DATA that holds ETTh1.csv, or ETTh1.csv.gz, and the others."""
_ETT_MONTHS = (12, 4, 4)
"""Months of 30 days of train, validation and test; the rows behind them are not used."""
_SHARES = (0.7, 0.2)
"""The shares of train and test of other files; validation has what is left."""
_MONTH = np.timedelta64(30, "D")

Sizes = tuple[int, int, int]


def open_series(data: DataConfig, task: TaskConfig) -> Series:
    """Open the series that a recipe names.

    Its columns are data.columns, or else task.targets, or else all but the time.

    Raises:
        UserError: there is no such file; it is no CSV, or has no time column; a column is missing, holds text or NaN,
            or is one number throughout; times are repeated, go back or have a gap; there are too few rows.
    """
    path = _find(data.dataset.removeprefix(CSV_PREFIX))
    wanted = data.columns or task.targets
    for column in task.targets:
        if data.columns and column not in data.columns:
            raise UserError(f"task.targets has {column}, which is not in data.columns: add it there")
    table = read_table(path, data.time_column, wanted)
    check_regular(table)
    borders = _borders(path, table, data.splits)
    begin, end = borders[0]
    training = table.values[begin:end]
    with np.errstate(over="ignore", invalid="ignore"):  # of what overflows, which is refused below
        mean, std = training.mean(0), training.std(0)
    for column, spread in zip(table.columns, std, strict=True):
        if not spread:
            raise UserError(
                f"{path}: the column {column} is one number in all training rows; leave it out of data.columns"
            )
    names, times = time_features(table.times)
    notes = []
    if borders[2][1] < len(table.values):
        notes.append(f"{len(table.values) - borders[2][1]:,} of {len(table.values):,} rows lie behind the test part")
    with np.errstate(over="ignore", invalid="ignore"):
        values = ((table.values - mean) / std).astype(np.float32)
    for column, finite in zip(table.columns, np.isfinite(values).all(0) & np.isfinite(std), strict=True):
        if not finite:
            raise UserError(
                f"{path}: numbers of the column {column} are too large to be standardised in float32; correct them, or "
                "divide the column by a constant"
            )
    return Series(values, times, mean, std, table.columns, names, borders, tuple(notes))


def _find(name: str) -> Path:
    """Return the file of this name, or that of S4GEN_DATA."""
    path = user_path(name, "data.dataset")
    if path.is_file():
        return path
    if re.fullmatch(r"ETT[hm][12]", name):
        folder = data_folder()
        for candidate in (f"{name}.csv", f"{name}.csv.gz"):
            if folder is not None and (folder / ETT / candidate).is_file():
                return folder / ETT / candidate
        raise UserError(
            f"no {name}: set S4GEN_DATA to a folder that holds {ETT}/{name}.csv (from "
            "https://github.com/zhouhaoyi/ETDataset), or name a file, such as csv:./my.csv"
        )
    problem = "that is a folder" if path.is_dir() else "there is no such file"
    raise UserError(f"{CSV_PREFIX}{name}: {problem}; expected a CSV file, or ETTh1 or ETTh2")


def _borders(
    path: Path, table: Table, splits: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the first row, and the row behind the last, of train, validation and test.

    Raises:
        UserError: there are too few rows for them.
    """
    rows = len(table.values)
    sizes = _sizes(path, table, splits)
    if min(sizes) < 1 or sum(sizes) > rows:
        raise UserError(
            f"{path} has {rows:,} rows, too few for train, validation and test of {', '.join(map(str, sizes))}: add "
            "rows, or set data.splits"
        )
    ends = np.cumsum(sizes).tolist()
    train, validation, test = ((end - size, end) for end, size in zip(ends, sizes, strict=True))
    return train, validation, test


def _sizes(path: Path, table: Table, splits: tuple[int, ...]) -> Sizes:
    rows = len(table.values)
    if splits:
        train, validation, test = splits
    elif path.name.startswith("ETT"):
        month = int(_MONTH / (table.times[1] - table.times[0]))
        train, validation, test = (months * month for months in _ETT_MONTHS)
    else:
        train, test = (int(rows * share) for share in _SHARES)
        validation = rows - train - test
    return train, validation, test
