"""The record of a run: metrics.jsonl, the same as metrics.csv for a spreadsheet, and TensorBoard if installed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from s4gen.files.atomic import write_error, write_file_atomic

BEFORE = ("step", "epoch", "split")
AFTER = ("lr", "gradient_norm", "tokens_per_second", "utilisation", "scaling_efficiency", "seconds")
"""Columns of every run; those of its task's measures stand between them, and what it counts per second if that is no
token. Speeds are those of all ranks together. utilisation: of what the processors can do at most, by the operations of
the model; left out where unknown. scaling_efficiency: of many ranks, the time that a step would take if nothing were
sent from rank to rank, as measured when training began, over the time that it takes."""


class MetricsLog:
    """Append-only; opening it to resume drops what was written after the checkpoint, so a step is never there twice."""

    def __init__(self, folder: Path, resume_step: int, measures: tuple[str, ...], unit: str = "tokens") -> None:
        self._columns = tuple(dict.fromkeys((*BEFORE, *measures, f"{unit}_per_second", *AFTER)))
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        rows = [row for row in read_metrics(folder) if row["step"] <= resume_step] if resume_step else []
        write_file_atomic(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())
        head = dict(zip(self._columns, self._columns, strict=True))
        write_file_atomic(self._csv, b"".join(self._csv_line(row) for row in [head, *rows]))
        self._board = _tensorboard(folder / "tensorboard", resume_step)

    def write(self, row: dict[str, Any]) -> None:
        """Add one row; its keys are among the columns.

        Raises:
            WriteError: the disk is full, or may not be written to.
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
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, in order; a half-written last line (a killed run) is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=resume_step or None)
