"""The result of the benchmark of generation: numbers that follow from its measurements, JSON and tables."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from s4gen.bench.instruments import machine_line
from s4gen.bench.tables import aligned, number, percent
from s4gen.bench.ways import CACHED, LOSSY, precision_of, title_of
from s4gen.bench.workload import GenerationMeasurement
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, density_config_to_dict
from s4gen.showing.words import plural

POSITION_NOTE = (
    "The state at a position is that of a random sequence of this length, read by convolution, and stepped "
    "on from there; the Transformer's cache is filled up to there with random numbers."
)
HEADER = ("", "ms/step", "tokens/s", "images/s", "peak MB", "time/best", "of limit")
"""Columns of `cells` for images; text has no fourth."""


@dataclass(frozen=True)
class GenerationResult:
    """Everything that one call of `generation.run` measured."""

    name: str
    """The model's name."""
    config: DensityConfig
    transformer: DensityConfig
    """The Transformer that it is compared with."""
    parameters: int
    """Parameters of the model."""
    transformer_parameters: int
    machine: dict[str, str | int]
    """The processor, threads and versions: `instruments.machine`."""
    engines: tuple[str, ...]
    """Engines that were asked for."""
    positions: tuple[int, ...]
    """Positions at which the cost of single tokens was asked for."""
    rows: list[GenerationMeasurement]

    @property
    def batches(self) -> list[int]:
        """Batch sizes, in the order given."""
        return list(dict.fromkeys(row.batch for row in self.rows))

    @property
    def lengths(self) -> list[int]:
        """Lengths, in the order given; everything but Transformers with a cache was measured at the first alone."""
        return list(dict.fromkeys(row.length for row in self.rows))

    def best(self, batch: int) -> GenerationMeasurement | None:
        """Return our fastest engine at this batch size, of those that change no result if one of them ran."""
        ours = [row for row in self.rows if row.batch == batch and row.way in self.engines and row.ms_per_step > 0]
        exact = [row for row in ours if row.way not in LOSSY]
        return min(exact or ours, key=lambda row: row.ms_per_step, default=None)

    def ratio(self, row: GenerationMeasurement) -> float:
        """Return how many times as long as our best engine this way takes at its batch size; NaN: unknown."""
        best = self.best(row.batch)
        return row.ms_per_step / best.ms_per_step if best else math.nan

    def tokens_per_second(self, row: GenerationMeasurement) -> float:
        """Return the tokens that the whole batch gains per second."""
        return row.batch / row.ms_per_step * 1e3

    def sequences_per_second(self, row: GenerationMeasurement) -> float:
        """Return the sequences of the layout's length that the whole batch gains per second.

        A sequence is an image, or a second of sound.
        """
        return self.tokens_per_second(row) / self.config.layout.length

    def rates(self, row: GenerationMeasurement) -> dict[str, float]:
        """Return the rates that are counted beside tokens, by name; text has none, because it has no length."""
        match self.config.layout:
            case ImageLayout():
                return {"images_per_second": self.sequences_per_second(row)}
            case AudioLayout():
                whole = self.sequences_per_second(row)
                return {"audio_seconds_per_second": whole, "real_time_factor": whole / row.batch}
        return {}

    def fraction(self, row: GenerationMeasurement) -> float:
        """Return the time that the machine allows as a fraction of the time taken; NaN: unknown."""
        return row.limit.limit_ms / row.ms_per_step if row.limit else math.nan

    def title(self, row: GenerationMeasurement) -> str:
        """Return the way to generate in words, with the length where it was measured at several."""
        several = row.way in CACHED and self.lengths[1:]
        return f"{title_of(row.way)}, length {row.length:,}" if several else title_of(row.way)

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON: machine, model, rows, ratios by length and batch size, cost by position."""
        model = {"name": self.name, "parameters": self.parameters, **density_config_to_dict(self.config)}
        return {
            "machine": self.machine,
            "model": model,
            "rows": [self._row_to_dict(row) for row in self.rows],
            "ratios": self._ratios(),
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

    def table(self) -> str:
        """Return what `s4gen bench` prints: conditions, a table for each batch size, the cost by position, notes."""
        lines = _conditions(self)
        for batch in self.batches:
            lines += ["", *aligned([[f"batch {batch}", *header(self, batch)[1:]], *cells(self, batch)])]
            lines += limit_lines(self, batch)
        if self.positions:
            lines += ["", *aligned(position_cells(self)), POSITION_NOTE]
        notes = [f"{self.title(row)} {row.loss}" for row in self.rows if row.loss]
        notes += [f"batch {row.batch}, {title_of(row.way)}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*lines, *([""] if notes else []), *dict.fromkeys(notes)])

    def _ratios(self) -> dict[str, dict[str, dict[str, str | float]]]:
        """Return, by length and batch size, the best engine and the ratio of every way to it.

        Engines take as long at any length.
        """
        ratios: dict[str, dict[str, dict[str, str | float]]] = {}
        for length in self.lengths:
            for batch in self.batches:
                if best := self.best(batch):
                    rows = [row for row in self.rows if row.batch == batch and self._is_at(row, length)]
                    entry = {row.way: self.ratio(row) for row in rows}
                    ratios.setdefault(str(length), {})[str(batch)] = {"best_engine": best.way, **entry}
        return ratios

    def _is_at(self, row: GenerationMeasurement, length: int) -> bool:
        return row.length == length or row.way in self.engines

    def _kind(self, row: GenerationMeasurement) -> str:
        return "engine" if row.way in self.engines else "baseline"

    def _row_to_dict(self, row: GenerationMeasurement) -> dict[str, Any]:
        values = asdict(replace(row, loss=None, limit=None))
        for key in ("way", "cost_by_position", "loss", "limit"):
            del values[key]
        is_transformer = row.way.startswith("transformer")
        return {
            self._kind(row): row.way,
            **values,
            "tokens_per_second": self.tokens_per_second(row),
            **self.rates(row),
            "parameters": self.transformer_parameters if is_transformer else self.parameters,
            "fraction_of_limit": self.fraction(row),
            "limit": asdict(row.limit) if row.limit else None,
            "bits_per_dim_lost": asdict(row.loss) if row.loss else None,
        }


def header(result: GenerationResult, batch: int) -> list[str]:
    """Return the columns of `cells` for this result and batch size."""
    first, ms, *_, peak, ratio, limit = HEADER
    audio = "x real time" if batch == 1 else "s of sound/s"
    counted = {"image": ["tokens/s", "images/s"], "text": ["tokens/s"], "audio": ["samples/s", audio]}
    return [first, ms, *counted[result.config.layout.kind], peak, ratio, limit]


def cells(result: GenerationResult, batch: int) -> list[list[str]]:
    """Return the table of one batch size, a line for each measurement; the columns are those of `header`."""
    return [
        [
            result.title(row),
            number(row.ms_per_step),
            number(result.tokens_per_second(row)),
            *([number(result.sequences_per_second(row))] if result.rates(row) else []),
            number(row.peak_memory_mb),
            number(result.ratio(row)),
            percent(result.fraction(row)),
        ]
        for row in result.rows
        if row.batch == batch
    ]


def position_cells(result: GenerationResult) -> list[list[str]]:
    """Return the table of cost per token against position: a header, and a line for every way measured there."""
    batch = min(result.batches)
    header = [f"batch {batch}, ms/step at position", *(f"{position:,}" for position in result.positions)]
    body = [
        [title_of(row.way), *(number(row.cost_by_position.get(p, math.nan)) for p in result.positions)]
        for row in result.rows
        if not row.cost_by_position.keys().isdisjoint(result.positions)
    ]
    return [header, *body]


def limit_lines(result: GenerationResult, batch: int) -> list[str]:
    """Return one line for each different limit at this batch size."""
    lines = {}
    for row in result.rows:
        if row.batch == batch and row.limit is not None:
            whose = result.title(row) if row.way in CACHED else f"recurrent, {precision_of(row.way)} weights"
            lines[whose] = _limit_line(whose, row)
    return list(lines.values())


def _limit_line(whose: str, row: GenerationMeasurement) -> str:
    assert row.limit is not None
    found = row.limit
    together = f", rows at a time: {found.rows_together}" if found.rows_together < row.batch else ""
    return (
        f"limit, {whose}: {found.limit_ms:.3g} ms = the longer of {found.bytes_per_step / 1e6:,.1f} MB at "
        f"{found.bandwidth / 1e9:,.0f} GB/s and {number(found.operations_per_step / 1e6)} MFLOP at "
        f"{found.rate / 1e9:,.0f} GFLOP/s{together}"
    )


def _conditions(result: GenerationResult) -> list[str]:
    """Return the lines above the tables: the model, the machine and the Transformer."""
    model, layout = result.config.model, result.config.layout
    what = {
        "image": f"{layout.length} tokens per image",
        "text": f"{layout.vocab:,} different tokens",
        "audio": f"{layout.length:,} samples per second",
    }[layout.kind]
    layers = plural(model.n_layers, "layer") + (f" of {model.mixers_per_block}" if model.mixers_per_block > 1 else "")
    layers += f", pool {' '.join(map(str, model.pool))}" if model.pool else ""
    layers += f" on whole pixels, {model.head} head" if model.whole_pixels else ""
    target = result.machine.get("native_engine")
    lines = [
        f"{result.name}: {model.mixer}, {layers}, d_model {model.d_model}, {result.parameters:,} parameters, {what}",
        machine_line(result.machine) + (f", native engine for {target}" if target else ""),
    ]
    if any(row.way.startswith("transformer") for row in result.rows):
        t = result.transformer.model
        lines.append(
            f"Transformer: {plural(t.n_layers, 'layer')}, d_model {t.d_model}, {plural(t.n_heads, 'head')}, "
            f"d_ff {t.d_ff}, {result.transformer_parameters:,} parameters, random weights"
        )
    return lines
