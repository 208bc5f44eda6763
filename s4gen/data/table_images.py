"""Make galleries of tables through `datasets`: of Parquet files, and of data sets of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from s4gen.config.names import SPLITS
from s4gen.data.galleries import NO_LABEL, NO_SPLIT, Gallery, Picture
from s4gen.data.pictures import read_bytes
from s4gen.data.splits import split_of_file
from s4gen.errors import UserError, shortened
from s4gen.files.folders import cache_folder

LABELS = ("label", "labels", "class", "fine_label", "category", "digit")
"""Columns that hold the class of a picture; the first one that a table has."""


ROWS_AT_A_TIME = 16
"""Rows that are decoded at a time: a file of a kilobyte can hold a million copies of one large picture."""


def from_parquet(folder: Path, files: list[Path], name: str) -> Gallery:
    """Return the rows of Parquet files as a gallery; a file named as test-00000-of-00001.parquet is of that split.

    Raises:
        UserError: they are damaged, or have no column of pictures.
    """
    groups: dict[str | None, list[str]] = {}
    for file in files:
        groups.setdefault(split_of_file(file.stem), []).append(glob.escape(str(file)))
    notes = _only_splits(groups)
    if "train" not in groups or len(groups) == 1:
        groups = {None: [path for paths in groups.values() for path in paths]}
    key = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    def open_tables(scratch: str) -> dict[str | None, Any]:
        load = import_datasets().load_dataset
        return {
            split: load(
                "parquet", data_files=paths, split="train", streaming=True, cache_dir=scratch, batch_size=ROWS_AT_A_TIME
            )
            for split, paths in groups.items()
        }

    return _gallery(name, key, open_tables, f"{folder} holds no Parquet files with images, or damaged ones", notes)


def _only_splits(groups: dict[str | None, Any]) -> list[str]:
    """Leave out what is in no split, where there is one to train on and another; at most one line says so."""
    if not {"train", None} <= groups.keys() or len(groups) == 2:
        return []
    del groups[None]
    return ["left aside the parts of the set whose names are those of no split"]


def from_hub(name: str) -> Gallery:
    """Return a data set of the Hugging Face hub as a gallery, which is read once, in stream order.

    Raises:
        UserError: the hub has none of this name, or cannot be reached; it has no column of pictures.
    """
    print(f"s4gen: there is no folder {name} here, so the Hugging Face hub is asked for it", file=sys.stderr)

    def open_tables(scratch: str) -> dict[str | None, Any]:
        found = import_datasets().load_dataset(name, streaming=True)
        if not isinstance(found, Mapping):
            return {None: found}
        splits = {split_of_file(split): table for split, table in found.items()}
        _only_splits(splits)
        return splits if "train" in splits and len(splits) > 1 else {None: next(iter(found.values()))}

    return _gallery(name, "hub", open_tables, f"there is no folder {name}, and no such data set from the hub", [])


def _gallery(name: str, key: Any, open_tables: Any, trouble: str, notes: list[str]) -> Gallery:
    """Return the gallery of the tables that `open_tables` opens: one for each split, or one for all (None)."""
    with _explained(trouble) as scratch:
        features = next(iter(open_tables(scratch).values())).features
        if features is None:
            raise UserError(f"{trouble}: it does not say what its columns are")
        image, label = _columns(features, name)
        classes = _class_names(features, label, open_tables, scratch)

    def pictures() -> Iterator[Picture]:
        from datasets import Image

        with _explained(trouble) as scratch:
            for split, table in open_tables(scratch).items():
                columns = [image] if label is None else [image, label]
                rows = table.cast_column(image, Image(decode=False)).select_columns(columns)
                number = NO_SPLIT if split is None else SPLITS.index(split)
                for row, record in enumerate(rows):
                    found = record[image] or {}
                    called = found.get("path") or f"{split or 'row'} {row}"
                    yield Picture(
                        called, partial(read_bytes, found.get("bytes")), _label(record, label, classes), number
                    )

    return Gallery(name, [key, list(classes)], 0, pictures, classes, tuple(notes))


def _columns(features: Mapping[str, Any], name: str) -> tuple[str, str | None]:
    """Return the column of pictures, and that of their classes, if there is one."""
    images = [column for column, kind in features.items() if type(kind).__name__ == "Image" or _is_file(kind)]
    if not images:
        raise UserError(f"{name} has no column of images, but {', '.join(features)}")
    label = next((column for column in LABELS if column in features), None)
    return images[0], label


def _is_file(kind: Any) -> bool:
    """Tell whether a column holds files as `datasets` writes them: their bytes and their paths."""
    return isinstance(kind, Mapping) and "bytes" in kind


def _class_names(features: Mapping[str, Any], label: str | None, open_tables: Any, scratch: str) -> tuple[str, ...]:
    """Return the names of the labels: the column's own, or its distinct values in their order."""
    if label is None:
        return ()
    if names := getattr(features[label], "names", None):
        return tuple(map(str, names))
    tables = open_tables(scratch).values()
    rows = itertools.chain.from_iterable(table.select_columns([label]) for table in tables)
    values = {row[label] for row in rows if row[label] is not None}
    return tuple(map(str, sorted(values)))


def _label(record: Mapping[str, Any], label: str | None, classes: tuple[str, ...]) -> int:
    value = None if label is None else record[label]
    if value is None or (isinstance(value, int) and value < 0):
        return NO_LABEL
    known = str(value)
    if known in classes:
        return classes.index(known)
    number = int(value)
    if number >= len(classes):
        raise ValueError(f"a label {number}, and there are {len(classes)} classes")
    return number


@contextlib.contextmanager
def _explained(trouble: str) -> Iterator[str]:
    """Give `datasets` a scratch folder, and turn its failures into one sentence that begins with `trouble`."""
    import_datasets()  # which would set the levels below to its own
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # a failure is reported here, once
    try:
        # Streaming writes nothing but a lock, which goes with the folder.
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch
    except UserError:
        raise
    except Exception as error:  # Arrow, the hub and the network each have their own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{trouble} ({shortened(reason)})") from error
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def import_datasets() -> ModuleType:
    """Return `datasets`, set to download to s4gen's cache folder unless the user has named another one for it."""
    for variable, folder in (("HF_HUB_CACHE", "hub"), ("HF_DATASETS_CACHE", "hub/datasets")):
        if "HF_HOME" not in os.environ:
            os.environ.setdefault(variable, str(cache_folder() / folder))
    import datasets

    return datasets
