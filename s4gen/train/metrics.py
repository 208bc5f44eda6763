"""The log of a run: metrics.jsonl, the same in metrics.csv for spreadsheets, and TensorBoard if it is installed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from s4gen.files import expected
from s4gen.files.atomic import write_error, write_file_atomic
from s4gen.files.parsing import json_value
from s4gen.files.reading import LARGE, read_bounded

BEFORE = ("step", "epoch", "split")
AFTER = ("lr", "gradient_norm", "tokens_per_second", "utilisation", "scaling_efficiency", "seconds")
"""The columns of every run. Those of the task stand between them: its measures, and its units per second.

Speeds are those of all ranks together. `utilisation` is the share of the processors' peak that the model's operations
reach; it is left out where the peak is unknown. `scaling_efficiency` is for many ranks: the time that a step would take
without messages between ranks, as measured when training began, divided by the time that it takes.
"""


ROW = expected.table(
    {"step": expected.whole(), "split": expected.text(100), "seconds": expected.number(0)},
    others=expected.number(finite=False),
)
"""This table checks a row of the log: a step, a split of the data, a time, and any measures, finite or not."""


class MetricsLog:
    """A log of rows. A resumed run first drops the rows after its checkpoint, so that no step is there twice."""

    def __init__(self, folder: Path, resume_step: int, measures: tuple[str, ...], unit: str = "tokens") -> None:
        """Open the log in `folder`, keeping rows up to `resume_step`; 0 begins a new one."""
        self._columns = tuple(dict.fromkeys((*BEFORE, *measures, f"{unit}_per_second", *AFTER)))
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        rows = [row for row in read_metrics(folder) if row["step"] <= resume_step] if resume_step else []
        write_file_atomic(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())
        head = dict(zip(self._columns, self._columns, strict=True))
        write_file_atomic(self._csv, b"".join(self._csv_line(row) for row in [head, *rows]))
        self._board = _tensorboard(folder / "tensorboard", resume_step)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row, whose keys are among the columns.

        Raises:
            WriteError: the disk is full, or the files may not be written to.
        """
        for path, line in ((self._jsonl, json.dumps(row).encode() + b"\n"), (self._csv, self._csv_line(row))):
            try:
                with path.open("ab") as file:
                    file.write(line)
            except OSError as error:
                raise write_error(error, path) from error
        if self._board is not None:
            for key in row.keys() - {*BEFORE, "stderr", "seconds"}:
                self._board.add_scalar(f"{row['split']}/{key}", row[key], row["step"])

    def _csv_line(self, row: dict[str, Any]) -> bytes:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([row.get(column, "") for column in self._columns])
        return line.getvalue().encode()

    def close(self) -> None:
        """Close TensorBoard's file; the other two are complete after every row."""
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl in order, up to the first that is none.

    That is usually the half line that a killed run has left.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in read_bounded(path, LARGE).split(b"\n"):
        try:
            rows.append(ROW(json_value(line, finite=False), "the row"))
        except ValueError:
            break
    return rows


def _tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=resume_step or None)
