"""Rows of numbers and what belongs to each, from arrays in .npy or CSV files, such as BIDMC (arXiv 2106.13749).

A folder holds trainx.npy and trainy.npy, and likewise validation and test; or x.npy and y.npy alone, of which parts are
held out. The inputs are (n, L, C), or (n, L) for one channel; the answers (n, K), or (n,) for one number or class. A
CSV file has a line for each row: L numbers of one channel, or K answers. A first line of names is left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig, SeriesLayout
from s4gen.config.names import ARRAY_PREFIX, SPLITS
from s4gen.data.examples import Examples, ExampleSplits
from s4gen.data.galleries import NO_SPLIT
from s4gen.data.labelled.parts import check_classes, parts, three
from s4gen.data.labelled.rows import Row, Rows
from s4gen.data.splits import split_of
from s4gen.errors import UserError
from s4gen.files.folders import user_path

_NAME = re.compile(r"(?:(?P<split>[a-z]+?)[-_.]?)?(?P<what>x|y)\.(?:npy|csv)", re.IGNORECASE)
"""trainx.npy, train_x.csv, x.npy, ..."""
_AT_A_TIME = 1 << 22
"""Numbers of an array that are looked at together."""

Array = NDArray[Any]
Indices = NDArray[np.int64]
Part = tuple[Array, Array, Indices]
"""Inputs (n, L, C), answers (n, K), and which of these rows are in a split."""


def open_arrays(data: DataConfig, classify: bool) -> ExampleSplits:
    """Open a folder of arrays as rows float32 (L, C), standardised by the training part, with classes or numbers.

    Raises:
        UserError: files are missing, damaged, empty or do not fit together; a number is NaN or infinite; a class is no
            whole number, is never seen in training, or is the only one.
    """
    name, folder = data.dataset, user_path(data.dataset.removeprefix(ARRAY_PREFIX), "data.dataset")
    found = _parts(folder, data.validation)
    if not len(found[0][2]):
        raise UserError(f"{name} has no rows to train on: add some")
    (x, y, training) = found[0]
    for other_x, other_y, _ in found[1:]:
        for what, wanted, shape in (
            ("inputs", x.shape[2], other_x.shape[2]),
            ("answers", y.shape[1], other_y.shape[1]),
        ):
            if shape != wanted:
                raise UserError(f"{name} has {what} of {wanted} numbers in training and of {shape} in another split")
    mean, std = _moments(x, training, name)
    rows = [Rows(x, indices, np.ones_like(indices), _standardiser(mean, std, name)) for x, _, indices in found]
    answers = [y[indices] for _, y, indices in found]
    layout = SeriesLayout(tuple(map(str, range(x.shape[2]))), tuple(mean), tuple(std), length=x.shape[1])
    if not classify:
        with np.errstate(over="ignore"):  # of numbers beyond float32, which are refused where they are to be learnt
            numbers = [Examples(row, answer.astype(np.float32)) for row, answer in zip(rows, answers, strict=True)]
        return ExampleSplits(*three(numbers), layout=layout, answers=tuple(map(str, range(y.shape[1]))))
    classes = _classes(np.concatenate(answers), name)
    labels = [Examples(row, np.searchsorted(classes, answer[:, 0])) for row, answer in zip(rows, answers, strict=True)]
    names = tuple(str(int(number)) for number in classes)
    check_classes(name, names, labels)
    return ExampleSplits(*three(labels), layout=layout, answers=names)


def _parts(folder: Path, validation: int) -> list[Part]:
    """Return the arrays of train, validation and test, and which rows of them are in it."""
    files = _files(folder)
    if ("", "x") in files:
        x, y = _pair(files, "")
        return [(x, y, indices) for indices in parts(np.full(len(x), NO_SPLIT), validation)]
    train_x, train_y = _pair(files, "train")
    if ("validation", "x") in files:
        training = np.arange(len(train_x))
        held_x, held_y = _pair(files, "validation")
        held = parts(np.full(len(held_x), SPLITS.index("validation")), validation)[1]
    else:
        held_x, held_y = train_x, train_y
        training, held, _ = parts(np.full(len(train_x), SPLITS.index("train")), validation)
    test_x, test_y = _pair(files, "test")
    return [(train_x, train_y, training), (held_x, held_y, held), (test_x, test_y, np.arange(len(test_x)))]


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the files of a folder by split ("" where the name has none) and by x or y."""
    if not folder.is_dir():
        raise UserError(
            f"{ARRAY_PREFIX}{folder}: there is no such folder; expected one with trainx.npy, trainy.npy, ..."
        )
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        split = split_of(match["split"]) if match["split"] else ""
        if split is not None and (key := (split, match["what"].lower())) not in files:
            files[key] = path
    return files


def _pair(files: dict[tuple[str, str], Path], split: str) -> tuple[Array, Array]:
    """Return inputs (n, L, C) and answers (n, K) of a split."""
    for what in ("x", "y"):
        if (split, what) not in files:
            folder = next(iter(files.values())).parent if files else "the folder"
            raise UserError(
                f"{folder} has no {split}{what}.npy: expected trainx.npy, trainy.npy, testx.npy, testy.npy and maybe "
                "validx.npy and validy.npy; or x.npy and y.npy alone"
            )
    x, y = _load(files[split, "x"]), _load(files[split, "y"])
    x, y = (x[..., None] if x.ndim == 2 else x), (y[:, None] if y.ndim == 1 else y)
    for path, array, wanted in ((files[split, "x"], x, 3), (files[split, "y"], y, 2)):
        if array.ndim != wanted or not array.size:
            shape = " x ".join(map(str, array.shape))
            expected = (
                "(rows, positions) or (rows, positions, channels)" if wanted == 3 else "(rows,) or (rows, numbers)"
            )
            raise UserError(f"{path} has the shape {shape}: expected {expected}, none of them 0")
        _check_finite(path, array)
    if len(x) != len(y):
        raise UserError(f"{files[split, 'x']} has {len(x)} rows and {files[split, 'y']} has {len(y)}: expected as many")
    return x, y


def _load(path: Path) -> Array:
    """Return the numbers of a file; those of .npy are read from the disk as they are needed."""
    try:
        if path.suffix.lower() == ".npy":
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _load_csv(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged, or no array of numbers ({error}): write it again") from error
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path} holds {array.dtype}, not numbers: write it again")
    return array


def _load_csv(path: Path) -> Array:
    """Return the numbers of a CSV file, (lines, numbers)."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    names = not all(map(_is_number, first.split(",")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which is refused by its shape
        return np.loadtxt(path, delimiter=",", skiprows=int(names), ndmin=2, encoding="utf-8-sig")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _chunks(array: Array, indices: Indices) -> Iterator[NDArray[np.float64]]:
    """Yield the chosen rows in float64, some of them at a time."""
    step = max(1, _AT_A_TIME // max(1, array[0].size))
    for begin in range(0, len(indices), step):
        yield array[indices[begin : begin + step]].astype(np.float64)


def _check_finite(path: Path, array: Array) -> None:
    row = 0
    for chunk in _chunks(array, np.arange(len(array))):
        bad = ~np.isfinite(chunk).reshape(len(chunk), -1).all(1)
        if bad.any():
            raise UserError(f"{path}: row {row + int(bad.argmax())} has a number that is NaN or infinite; correct it")
        row += len(chunk)


def _moments(x: Array, indices: Indices, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each channel over the chosen rows, (C,) each."""
    count = len(indices) * x.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):  # of what overflows, which is refused below
        mean = np.sum([chunk.sum((0, 1)) for chunk in _chunks(x, indices)], axis=0) / count
        std = np.sqrt(np.sum([((chunk - mean) ** 2).sum((0, 1)) for chunk in _chunks(x, indices)], axis=0) / count)
    if not np.isfinite(std).all():
        raise UserError(_too_large(name, int((~np.isfinite(std)).argmax())))
    if not std.all():
        raise UserError(
            f"channel {int((std == 0).argmax())} of {name} is one number in all training rows: leave it out"
        )
    return mean, std


def _too_large(name: str, channel: int) -> str:
    return (
        f"numbers of channel {channel} of {name} are too large to be standardised in float32; correct them, or divide "
        "the channel by a constant"
    )


def _standardiser(mean: NDArray[np.float64], std: NDArray[np.float64], name: str) -> Callable[[Row], Row]:
    """Return a function from rows (1, L, C) to the standardised row, float32 (L, C); it refuses what overflows."""

    def convert(rows: Row) -> Row:
        with np.errstate(over="ignore"):
            row = ((rows[0] - mean) / std).astype(np.float32)
        finite = np.isfinite(row).all(0)
        if not finite.all():
            raise UserError(_too_large(name, int((~finite).argmax())))
        return row

    return convert


def _classes(answers: Array, name: str) -> Array:
    """Return the numbers of the classes, ascending, of answers (n, 1)."""
    if answers.shape[1] != 1 or (answers != np.floor(answers)).any():
        raise UserError(f"the answers of {name} are no classes: expected one whole number for each row")
    return np.unique(answers)
