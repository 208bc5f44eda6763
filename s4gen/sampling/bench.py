"""The benchmark: our recurrent mode beside our convolution mode and a Transformer.

Embedding, head and the draw are part of every step; loading and compiling are part of none. The Transformer
has the width, the depth and (through d_ff) the parameter count of the model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from s4gen import timing
from s4gen.config import DensityConfig, density_config_to_dict
from s4gen.errors import UserError
from s4gen.sampling.baselines import matched_transformer, parameter_count
from s4gen.sampling.measure import Row, Task, measure_apart

ENGINES = ("eager", "compiled")
"""Of s4gen.sampling.engines, those to measure."""
BASELINES = {"conv": ("conv",), "transformer": ("transformer", "transformer-no-cache")}
"""The baselines, and the rows that each stands for."""
POSITIONS = (100, 1_000, 10_000, 100_000)
"""Where the cost of single tokens is measured."""

HEADER = ("", "ms/step", "tokens/s", "images/s", "peak MB", "time/best")
"""Columns of `BenchResult.cells`."""
POSITION_NOTE = (
    "The state at a position is that of a random sequence of this length, read by convolution, and stepped "
    "on from there; the Transformer's cache is filled up to there with random numbers."
)

_TITLES = {
    "conv": "convolution again per token",
    "transformer": "Transformer, KV cache",
    "transformer-no-cache": "Transformer, no cache",
}


@dataclass(frozen=True)
class BenchResult:
    """Everything that one call of `run` measured."""

    name: str
    config: DensityConfig
    transformer: DensityConfig
    parameters: int
    """Of the model."""
    transformer_parameters: int
    machine: dict[str, str | int]
    engines: tuple[str, ...]
    positions: tuple[int, ...]
    rows: list[Row]

    def best(self, batch: int) -> Row | None:
        """Our fastest engine at this batch size."""
        ours = [row for row in self.rows if row.batch == batch and row.way in self.engines]
        return min((row for row in ours if row.ms_per_step > 0), key=lambda row: row.ms_per_step, default=None)

    def ratio(self, row: Row) -> float:
        """How many times as long as our fastest engine this way takes at its batch size; NaN: unknown."""
        best = self.best(row.batch)
        return row.ms_per_step / best.ms_per_step if best else math.nan

    def tokens_per_second(self, row: Row) -> float:
        """Of the whole batch."""
        return row.batch / row.ms_per_step * 1e3

    def images_per_second(self, row: Row) -> float:
        """Of the whole batch, an image having the layout's number of tokens."""
        return self.tokens_per_second(row) / self.config.layout.length

    def to_dict(self) -> dict[str, Any]:
        """For JSON: machine, model, rows, ratios by batch size, cost by position."""
        model = {"name": self.name, "parameters": self.parameters, **density_config_to_dict(self.config)}
        ratios: dict[str, dict[str, str | float]] = {}
        for row in self.rows:
            if best := self.best(row.batch):
                entry = ratios.setdefault(str(row.batch), {"best_engine": best.way})
                entry[row.way] = self.ratio(row)
        return {
            "machine": self.machine,
            "model": model,
            "rows": [self._row_to_dict(row) for row in self.rows],
            "ratios": ratios,
            "position_note": POSITION_NOTE,
            "position": [
                {
                    self._kind(row): row.way,
                    "batch": row.batch,
                    "points": [{"position": p, "ms_per_step": ms} for p, ms in row.cost_by_position.items()],
                }
                for row in self.rows
                if row.cost_by_position
            ],
        }

    def _kind(self, row: Row) -> str:
        return "engine" if row.way in self.engines else "baseline"

    def _row_to_dict(self, row: Row) -> dict[str, Any]:
        values = asdict(row)
        del values["way"], values["cost_by_position"]
        is_transformer = row.way.startswith("transformer")
        return {
            self._kind(row): row.way,
            **values,
            "tokens_per_second": self.tokens_per_second(row),
            "images_per_second": self.images_per_second(row),
            "parameters": self.transformer_parameters if is_transformer else self.parameters,
        }

    def title(self, row: Row) -> str:
        """The way to generate, in words."""
        return _TITLES.get(row.way, f"recurrent, {row.way}")

    def cells(self, batch: int) -> list[list[str]]:
        """The table's rows for one batch size; the columns are those of `HEADER`."""
        return [
            [self.title(row), *map(number, (*self._numbers(row), self.ratio(row)))]
            for row in self.rows
            if row.batch == batch
        ]

    def _numbers(self, row: Row) -> tuple[float, ...]:
        return row.ms_per_step, self.tokens_per_second(row), self.images_per_second(row), row.peak_memory_mb

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """ms per token against position for every way that it was measured for, by title."""
        return {self.title(row): list(row.cost_by_position.items()) for row in self.rows if row.cost_by_position}

    def plot(self) -> bytes:
        """Those curves as a PNG."""
        from s4gen.plots import cost_by_position

        return cost_by_position(self.curves(), [f"recurrent, {engine}" for engine in self.engines])


def run(
    name: str,
    config: DensityConfig,
    *,
    checkpoint: Path | None = None,
    batches: Sequence[int] = (1, 64),
    length: int | None = None,
    engines: Sequence[str] = ENGINES,
    baselines: Sequence[str] = tuple(BASELINES),
    device: str | torch.device | None = None,
    budget: float = 3.0,
    positions: Sequence[int] = POSITIONS,
    progress: bool = False,
) -> BenchResult:
    """Measure every engine and baseline at every batch size, each in a process of its own.

    Args:
        name: of the model, for the result.
        checkpoint: where its weights are; None: random ones, which are as fast.
        length: tokens per sequence; None: the layout's.
        device: None: the GPU where there is one, else the CPU.
        budget: seconds of measuring per row, start-up and compilation apart.
        positions: where to measure the cost of a single token, at the smallest batch size; may be empty.
        progress: a line on standard error before each row.

    Raises:
        UserError: an unknown engine or baseline, a size below 1, or a model that is not recurrent.
    """
    length = config.layout.length if length is None else length
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _check(config, batches, length, engines, baselines, positions)
    transformer = matched_transformer(config)
    ways = [*engines, *(way for baseline in baselines for way in BASELINES[baseline])]
    rows = []
    for batch in dict.fromkeys(batches):
        for way in ways:
            if progress:
                print(f"s4gen: measuring batch {batch}, {way} ...", file=sys.stderr, flush=True)
            task = Task(
                way=way,
                config=transformer if way.startswith("transformer") else config,
                checkpoint=checkpoint,
                batch=batch,
                length=length,
                device=str(device),
                threads=torch.get_num_threads(),
                budget=budget,
                positions=tuple(positions) if batch == min(batches) else (),
            )
            rows.append(measure_apart(task))
    return BenchResult(
        name=name,
        config=config,
        transformer=transformer,
        parameters=parameter_count(config),
        transformer_parameters=parameter_count(transformer),
        machine=timing.machine(device),
        engines=tuple(engines),
        positions=tuple(sorted(positions)),
        rows=rows,
    )


def format_table(result: BenchResult) -> str:
    """What `s4gen bench` prints: the conditions, a table for each batch size, the cost by position."""
    model, machine = result.config.model, result.machine
    lines = [
        f"{result.name}: {model.mixer}, {model.n_layers} layers, d_model {model.d_model}, "
        f"{result.parameters:,} parameters, {result.config.layout.length} tokens per image",
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, on {machine['device']}",
    ]
    if any(row.way.startswith("transformer") for row in result.rows):
        t = result.transformer.model
        lines.append(
            f"Transformer: {t.n_layers} layers, d_model {t.d_model}, {t.n_heads} heads, d_ff {t.d_ff}, "
            f"{result.transformer_parameters:,} parameters, random weights"
        )
    for batch in dict.fromkeys(row.batch for row in result.rows):
        lines += ["", *aligned([[f"batch {batch}", *HEADER[1:]], *result.cells(batch)])]
    if result.positions:
        lines += ["", *aligned(position_cells(result)), POSITION_NOTE]
    notes = [f"batch {row.batch}, {result.title(row)}: {row.note}" for row in result.rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def position_cells(result: BenchResult) -> list[list[str]]:
    """Cost per token against position as a table: a header, and a row for every way measured there."""
    batch = min(row.batch for row in result.rows)
    header = [f"batch {batch}, ms/step at position", *(f"{position:,}" for position in result.positions)]
    body = [
        [result.title(row), *(number(row.cost_by_position.get(p, math.nan)) for p in result.positions)]
        for row in result.rows
        if not row.cost_by_position.keys().isdisjoint(result.positions)
    ]
    return [header, *body]


def _check(
    config: DensityConfig,
    batches: Sequence[int],
    length: int,
    engines: Sequence[str],
    baselines: Sequence[str],
    positions: Sequence[int],
) -> None:
    if config.model.mixer == "attention":
        raise UserError("bench measures a recurrent model against Transformers, and this one is a Transformer")
    for kind, given, known in (("engine", engines, ENGINES), ("baseline", baselines, tuple(BASELINES))):
        for name in given:
            if name not in known:
                raise UserError(f"bench knows no {kind} {name!r}: expected some of {', '.join(known)}")
    if not batches or not (engines or baselines):
        raise UserError("there is nothing to measure: name at least one batch size and one engine or baseline")
    for what, value in (*(("batch", batch) for batch in batches), ("length", length)):
        if value < 1:
            raise UserError(f"{what} {value}: expected at least 1")
    for position in positions:
        if position < 1:
            raise UserError(f"position {position}: expected at least 1, one token being known")


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
