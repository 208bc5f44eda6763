"""Read the records of a run or a checkpoint from its folder. No model is loaded, so that fifty runs take seconds.

A file that is missing, damaged or of another version of s4gen costs the page what stands in it, and a note says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from s4gen.checkpoint import CURVE_FILE
from s4gen.checkpoint.files import config_in, read_json
from s4gen.config import load_recipe, recipe_to_dict
from s4gen.errors import UserError
from s4gen.files.atomic import current, read_consistent
from s4gen.files.folders import says_why, user_path
from s4gen.files.parsing import toml_value
from s4gen.files.reading import read_bounded
from s4gen.files.shipped import shipped_folder, shipped_names
from s4gen.models.build import MOST_NUMBERS, TooLargeError, build_shapes
from s4gen.train.folder import CHECKPOINT, RECIPE, SAMPLES_FOLDER
from s4gen.train.metrics import AFTER, BEFORE, read_log

T = TypeVar("T")

Row = dict[str, Any]
LOG = "metrics.jsonl"
CARD = "README.md"
_SHIPPED_PARENTS = (Path("."), Path("checkpoints"))
"""A shipped checkpoint may be named with its folder, as everywhere."""
_MOST_TENSORS = 100_000
"""Tensors that a model is built of to be counted, so that a damaged config.json does not take minutes."""
_SAMPLE = re.compile(r"step-(\d{1,18})(\.png|\.txt|)")
"""The name of what was drawn at a step: a grid of images, texts, or a folder of clips."""


@dataclass
class Record:
    """The facts about one run or checkpoint. A fact that is missing or cannot be read is empty."""

    name: str
    """Its name on the page; no two on a page have the same."""
    path: Path
    is_run: bool
    """Whether it is the folder of a run, rather than a checkpoint alone."""
    rows: list[Row] = field(default_factory=list)
    """The log of the run."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The values of the recipe by "section.key"."""
    recipe_text: str = ""
    card: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The metrics.json of the checkpoint."""
    parameters: int | None = None
    samples: list[tuple[int, Path]] = field(default_factory=list)
    """Steps, in order, and what was drawn at each."""
    curve: bytes = b""
    """The picture of the learning curve in a checkpoint, as PNG."""
    notes: list[str] = field(default_factory=list)
    """Notes on files that could not be read, one sentence each."""

    @property
    def training(self) -> list[Row]:
        """The rows about training batches."""
        return [row for row in self.rows if row["split"] == "train"]

    @property
    def held_out(self) -> list[Row]:
        """The rows about evaluations on held-out data."""
        return [row for row in self.rows if row["split"] != "train"]

    @property
    def measures(self) -> list[str]:
        """The names of what was measured on held-out data or, before the first evaluation, in training."""
        rows = self.held_out or self.training
        known = {*BEFORE, *AFTER, "stderr"}
        return [key for key in (rows[0] if rows else ()) if key not in known and not key.endswith("_per_second")]

    @property
    def curve_measure(self) -> str | None:
        """The first measure that training batches have, too, which is that of the learning curve."""
        logged = self.training[0] if self.training else {}
        return next((name for name in self.measures if name in logged), next(iter(self.measures), None))


def read_records(names: Sequence[str | Path]) -> list[Record]:
    """Read all runs and checkpoints, given by path, or checkpoints by their shipped names.

    Raises:
        UserError: one is neither.
    """
    records = [read_record(name) for name in names]
    shortest = Counter(record.name for record in records)
    as_given = Counter(str(name) for name in names)
    for number, (record, name) in enumerate(zip(records, names, strict=True), 1):
        if shortest[record.name] > 1:
            record.name = f"{name}" if as_given[str(name)] == 1 else f"{name} ({number})"
    return records


def read_record(name: str | Path) -> Record:
    """Read one run or checkpoint.

    Raises:
        UserError: it is neither.
    """
    if not str(name):
        raise UserError("the name of a run is empty: give its folder")
    path = user_path(name)
    if current(path) is None and path.name in shipped_names("checkpoints") and path.parent in _SHIPPED_PARENTS:
        path = shipped_folder("checkpoints") / path.name
    found = current(path)
    if found is None:
        what = "is a file" if path.exists() else "does not exist"
        shipped = ", ".join(shipped_names("checkpoints")) or "none"
        raise UserError(f"{name} {what}: give the folder of a run or of a checkpoint (the shipped ones are: {shipped})")
    if (found / "config.json").is_file():
        record = Record(path.resolve().name, path, is_run=False)
        _read_checkpoint(record, path)
        return record
    if not any((path / part).exists() for part in (RECIPE, CHECKPOINT, LOG)):
        inside = sorted(str(file.parent) for depth in ("*", "*/*") for file in path.glob(f"{depth}/{RECIPE}"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise UserError(f"{name} is neither a run nor a checkpoint: there is no {RECIPE} and no {LOG} in it{hint}")
    record = Record(path.resolve().name, path, is_run=True)
    _read_log(record)
    checkpoint = path / CHECKPOINT
    if current(checkpoint) is not None:
        _read_checkpoint(record, checkpoint)
    if (path / RECIPE).exists():  # it wins over the one in the checkpoint, as in resuming
        _read_recipe(record, path / RECIPE)
    record.samples = _samples(path / SAMPLES_FOLDER)
    return record


def _read_log(record: Record) -> None:
    """Read the rows of the log, up to the first damaged one."""
    nothing: tuple[list[Row], int | None] = ([], None)
    record.rows, bad = _attempt(record, lambda: read_log(record.path), nothing)
    if bad is not None:
        record.notes.append(f"{record.path / LOG} is damaged at line {bad}; what stands above it is shown")
    elif not record.rows and not record.notes:
        record.notes.append(f"{record.path / LOG} is missing or holds no measurement yet, so there are no curves")


def _read_checkpoint(record: Record, path: Path) -> None:
    """Read all but the weights, from one version of the checkpoint: a run may replace it at any time."""
    before = record.notes

    def read(folder: Path) -> None:
        record.notes = list(before)
        record.parameters = _attempt(record, lambda: _count(folder / "config.json"), None)
        if (folder / "metrics.json").exists():
            record.metrics = _attempt(record, lambda: read_json(folder / "metrics.json", finite=False), {})
        if (folder / CARD).exists():
            record.card = _attempt(record, lambda: read_bounded(folder / CARD).decode("utf-8", "replace"), "")
        if (folder / CURVE_FILE).exists():
            record.curve = _attempt(record, lambda: read_bounded(folder / CURVE_FILE), b"")
        if (folder / RECIPE).exists():
            _read_recipe(record, folder / RECIPE)

    read_consistent(path, read)


def _count(config: Path) -> int | None:
    """Count the parameters of the model that a config.json describes; None: it has too many to be counted."""
    try:
        shapes = build_shapes(config_in(read_json(config), config), MOST_NUMBERS, _MOST_TENSORS)
    except TooLargeError:
        return None
    return sum(parameter.numel() for parameter in shapes.parameters())


def _read_recipe(record: Record, path: Path) -> None:
    """Read a recipe. One of another version of s4gen is read as the tables that it has, without the defaults."""
    record.recipe_text = text = _attempt(record, lambda: read_bounded(path).decode("utf-8", "replace"), "")
    if not text:
        return
    try:
        tables = recipe_to_dict(load_recipe(path))
    except UserError as error:
        record.notes.append(f"the recipe is shown as it is: {error}")
        try:
            tables = toml_value(text)
        except ValueError:
            tables = {}
    record.recipe = {
        f"{section}.{key}": value
        for section, table in tables.items()
        for key, value in (table.items() if isinstance(table, dict) else ())
    }


def _attempt(record: Record, read: Callable[[], T], otherwise: T) -> T:
    """Return `read()`; if the file cannot be read, note why, and return `otherwise`."""
    try:
        return read()
    except UserError as error:
        record.notes.append(str(error))
    except OSError as error:
        record.notes.append(says_why(error))
    return otherwise


def _samples(folder: Path) -> list[tuple[int, Path]]:
    """List what was drawn at each step, in order of the steps."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = ((_SAMPLE.fullmatch(entry.name), entry) for entry in entries)
    return sorted((int(match[1]), entry) for match, entry in found if match)
