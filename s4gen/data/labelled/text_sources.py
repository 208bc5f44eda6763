"""Where texts with classes come from: folders of files by class, Parquet files, JSON Lines."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4gen.config import DataConfig
from s4gen.config.names import LABELLED_PREFIX, TEXT_SUFFIXES
from s4gen.data.splits import are_splits, split_of, split_of_file, warning
from s4gen.data.table_images import import_datasets
from s4gen.data.text.reading import BYTE_ORDER_MARK, is_jsonl, open_unpacked, unreadable
from s4gen.data.tree import names_below, natural, readable, without_common_folder
from s4gen.errors import UserError
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import LARGE
from s4gen.showing.progress import progress_bar

UNLABELLED = ("unsup", "unlabelled", "unlabeled", "unsupervised")
"""Folders of texts without a class; IMDB has one called unsup."""


@dataclass(frozen=True)
class LabelledText:
    """One text with its class."""

    name: str
    """Its name in messages."""
    data: bytes
    label: str
    split: str | None
    """train, validation or test; None where the set does not say."""


@dataclass(frozen=True)
class TextSource:
    """All texts of a set."""

    texts: Sequence[LabelledText]
    classes: tuple[str, ...] = ()
    """The classes in their order, where the set says so; otherwise those of the texts, in alphabetical order."""
    notes: tuple[str, ...] = ()
    """Lines for the user that say how the set was understood."""


def read_texts(place: Path, data: DataConfig, progress: bool) -> TextSource:
    """Read all texts of a folder by class, or of Parquet or JSON Lines files; a file may be called for its split.

    Raises:
        UserError: there is nothing of the kind, or it is damaged; a text has no class.
    """
    if place.is_file() and (place.suffix.lower() == ".parquet" or is_jsonl(place)):
        return _from_records([place], data, progress)
    if not place.is_dir():
        problem = "that is a file" if place.exists() else "there is no such folder"
        raise UserError(
            f"{LABELLED_PREFIX}{place}: {problem}; expected a folder of texts by class, such as train/pos/1.txt, or "
            "Parquet or .jsonl files"
        )
    for folder in (place, place / "data"):  # the hub keeps Parquet files in data/
        if folder.is_dir():
            records = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".parquet" or is_jsonl(p))
            if records:
                return _from_records(records, data, progress)
    return _from_folder(place, progress)


def _from_folder(folder: Path, progress: bool) -> TextSource:
    """Read the files in folders by class, maybe below folders of splits; files beside the folders are no texts."""
    found = without_common_folder(
        n for n in names_below(folder) if n.lower().endswith(TEXT_SUFFIXES) and not is_jsonl(Path(n))
    )
    in_folders = are_splits(parts[0] for parts in found.values() if len(parts) > 2)
    depth = 1 if in_folders else 0
    files = {
        name: parts
        for name, parts in found.items()
        if len(parts) > depth + 1 and (not in_folders or split_of(parts[0]))
    }
    aside = [name for name, parts in files.items() if parts[depth].casefold() in UNLABELLED]
    notes = [f"left aside {len(aside)} texts without a class, such as {aside[0]}"] if aside else []
    chosen = sorted(files.keys() - set(aside), key=natural)
    if not chosen:
        raise UserError(
            f"{folder} has no texts by class, or one class only: expected files such as train/pos/1.txt "
            "and train/neg/1.txt"
        )
    classes = {readable(files[name][depth]) for name in chosen}
    if not in_folders:
        notes += warning(sorted(classes))
    texts = []
    with progress_bar(len(chosen), "texts", progress, f"reading {folder.name}") as bar:
        for name in chosen:
            parts = files[name]
            split = split_of(parts[0]) if in_folders else None
            texts.append(LabelledText(name, _content(folder / name), readable(parts[depth]), split))
            bar.update(1)
    return TextSource(texts, notes=tuple(notes))


def _content(path: Path) -> bytes:
    try:
        with open_unpacked(path) as file:
            return file.read().removeprefix(BYTE_ORDER_MARK)
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error


def _from_records(files: list[Path], data: DataConfig, progress: bool) -> TextSource:
    """Read the records of files; those called for a split, such as train-00000-of-00002.parquet, are that split."""
    by_name = {file: split_of_file(file.name.split(".")[0]) for file in files}
    splits = set(by_name.values())
    notes = []
    if not {"train", "test"} <= splits:
        by_name = dict.fromkeys(files)  # one file called test is the whole set
    elif None in splits:
        aside = [file.name for file, split in by_name.items() if split is None]
        by_name = {file: split for file, split in by_name.items() if split is not None}
        notes.append(f"left aside {', '.join(aside)}, whose names are those of no split")
    texts: list[LabelledText] = []
    unlabelled = 0
    classes: tuple[str, ...] = ()
    with progress_bar(0, "texts", progress, "reading") as bar:
        for file, split in by_name.items():
            rows: Iterable[tuple[str, dict[str, Any]]]
            names: tuple[str, ...]
            rows, names = (_jsonl_rows(file), ()) if is_jsonl(file) else _parquet_rows(file, data)
            classes = classes or names
            for place, row in rows:
                bar.update(1)
                text, label = _text_and_label(place, row, data, names)
                if label is None:
                    unlabelled += 1
                else:
                    texts.append(LabelledText(place, text, label, split))
    if unlabelled:
        notes.append(f"left aside {unlabelled} texts without a class")
    if not texts:
        raise UserError(f"{files[0]} holds no texts with classes: expected some")
    return TextSource(texts, classes if {text.label for text in texts} <= set(classes) else (), tuple(notes))


def _text_and_label(
    place: str, row: Mapping[str, Any], data: DataConfig, names: tuple[str, ...]
) -> tuple[bytes, str | None]:
    """Return text and class of a record; None for a negative number, which stands for no class.

    Raises:
        UserError: one of them is missing, or of another kind.
    """
    text, label = row.get(data.text_column), row.get(data.label_column)
    if not isinstance(text, str):
        raise UserError(f"{place}: no text in {data.text_column}; set data.text_column, or correct it")
    if not isinstance(label, int | str):
        raise UserError(f"{place}: no class in {data.label_column}; set data.label_column, or correct it")
    if isinstance(label, int) and label < 0:
        return b"", None
    name = names[label] if isinstance(label, int) and label < len(names) else str(label)
    return text.encode("utf-8", "surrogatepass"), name


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a JSON Lines file, and how to call each of them."""
    try:
        with open_unpacked(file) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json_value(line.removeprefix(BYTE_ORDER_MARK), LARGE)
                except ValueError as error:
                    raise UserError(
                        f"{file}, line {number}: no JSON ({reason(error)}); correct or remove it"
                    ) from error
                if not isinstance(record, dict):
                    raise UserError(f"{file}, line {number}: no JSON object; correct or remove it")
                yield f"{file}, line {number}", record
    except (OSError, EOFError) as error:
        raise unreadable(file, error) from error


def _parquet_rows(file: Path, data: DataConfig) -> tuple[Iterator[tuple[str, dict[str, Any]]], tuple[str, ...]]:
    """Return the rows of a Parquet file, and the names of its classes if it has some."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            table = import_datasets().load_dataset(
                "parquet", data_files=glob.escape(str(file)), split="train", streaming=True, cache_dir=scratch
            )
            features = table.features
            missing = [name for name in (data.text_column, data.label_column) if name not in features]
            if missing:
                raise UserError(
                    f"{file} has no column {missing[0]}, but {', '.join(features)}: set data.text_column and "
                    "data.label_column"
                )
            rows = list(table.select_columns([data.text_column, data.label_column]))
        except UserError:
            raise
        except Exception as error:  # Arrow and datasets each have their own kinds for a damaged file
            raise UserError(f"{file} is damaged or not Parquet ({error}): copy or download it again") from error
    names = tuple(map(str, getattr(features[data.label_column], "names", None) or ()))
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows)), names
