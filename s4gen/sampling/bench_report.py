"""A result of the benchmark in words, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from s4gen.plots import Panel, panels
from s4gen.sampling.bench import POSITION_NOTE, BenchResult, way_title
from s4gen.sampling.limits import precision_of
from s4gen.sampling.measure import CACHED, Row

HEADER = ("", "ms/step", "tokens/s", "images/s", "peak MB", "time/best", "of limit")
"""Columns of `cells` for images; of text there is no fourth."""


def header(result: BenchResult, batch: int) -> list[str]:
    """The columns of `cells` for this result and batch size."""
    first, ms, *_, peak, ratio, limit = HEADER
    audio = "x real time" if batch == 1 else "s of sound/s"
    counted = {"image": ["tokens/s", "images/s"], "text": ["tokens/s"], "audio": ["samples/s", audio]}
    return [first, ms, *counted[result.config.layout.kind], peak, ratio, limit]


def cells(result: BenchResult, batch: int) -> list[list[str]]:
    """The table's rows for one batch size; the columns are those of `header`."""
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


def position_cells(result: BenchResult) -> list[list[str]]:
    """Cost per token against position as a table: a header, and a row for every way measured there."""
    batch = min(result.batches)
    header = [f"batch {batch}, ms/step at position", *(f"{position:,}" for position in result.positions)]
    body = [
        [way_title(row.way), *(number(row.cost_by_position.get(p, math.nan)) for p in result.positions)]
        for row in result.rows
        if not row.cost_by_position.keys().isdisjoint(result.positions)
    ]
    return [header, *body]


def limit_lines(result: BenchResult, batch: int) -> list[str]:
    """One line for each different limit at this batch size."""
    lines = {}
    for row in result.rows:
        if row.batch == batch and row.limit is not None:
            whose = result.title(row) if row.way in CACHED else f"recurrent, {precision_of(row.way)} weights"
            lines[whose] = _limit_line(whose, row)
    return list(lines.values())


def _limit_line(whose: str, row: Row) -> str:
    assert row.limit is not None
    found = row.limit
    together = f", rows at a time: {found.rows_together}" if found.rows_together < row.batch else ""
    return (
        f"limit, {whose}: {found.limit_ms:.3g} ms = the longer of {found.bytes_per_step / 1e6:,.1f} MB at "
        f"{found.bandwidth / 1e9:,.0f} GB/s and {number(found.operations_per_step / 1e6)} MFLOP at "
        f"{found.rate / 1e9:,.0f} GFLOP/s{together}"
    )


def format_table(result: BenchResult) -> str:
    """What `s4gen bench` prints: the conditions, a table for each batch size, the cost by position."""
    model, machine, layout = result.config.model, result.machine, result.config.layout
    what = {
        "image": f"{layout.length} tokens per image",
        "text": f"{layout.vocab:,} different tokens",
        "audio": f"{layout.length:,} samples per second",
    }[layout.kind]
    layers = f"{model.n_layers} layers" + (f" of {model.mixers_per_block}" if model.mixers_per_block > 1 else "")
    layers += f", pool {' '.join(map(str, model.pool))}" if model.pool else ""
    layers += f" on whole pixels, {model.head} head" if model.whole_pixels else ""
    lines = [
        f"{result.name}: {model.mixer}, {layers}, d_model {model.d_model}, {result.parameters:,} parameters, {what}",
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, on {machine['device']}"
        + (f", native engine for {machine['native_engine']}" if "native_engine" in machine else ""),
    ]
    if any(row.way.startswith("transformer") for row in result.rows):
        t = result.transformer.model
        lines.append(
            f"Transformer: {t.n_layers} layers, d_model {t.d_model}, {t.n_heads} heads, d_ff {t.d_ff}, "
            f"{result.transformer_parameters:,} parameters, random weights"
        )
    for batch in result.batches:
        lines += [
            "",
            *aligned([[f"batch {batch}", *header(result, batch)[1:]], *cells(result, batch)]),
            *limit_lines(result, batch),
        ]
    if result.positions:
        lines += ["", *aligned(position_cells(result)), POSITION_NOTE]
    notes = [f"{result.title(row)} {row.loss}" for row in result.rows if row.loss]
    notes += [f"batch {row.batch}, {way_title(row.way)}: {row.note}" for row in result.rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *dict.fromkeys(notes)])


def plot(result: BenchResult) -> bytes:
    """A PNG with a panel for everything that was varied: position, length, batch size."""
    ours = [way_title(way) for way in result.engines]
    shown = []
    if any(row.cost_by_position for row in result.rows):
        shown.append(Panel("position in the sequence", "ms per token", _costs(result), ours))
    if len(result.lengths) > 1:
        shown.append(Panel("length of the sequence", "time per token, our best engine = 1", _ratios(result), ours))
    if len(result.batches) > 1:
        shown.append(Panel("batch size", "tokens per second", _speeds(result), ours))
    return panels(shown)


Curves = dict[str, list[tuple[float, float]]]


def _costs(result: BenchResult) -> Curves:
    return {way_title(row.way): list(row.cost_by_position.items()) for row in result.rows if row.cost_by_position}


def _ratios(result: BenchResult) -> Curves:
    rows = [row for row in result.rows if row.way in CACHED]
    return _curves((f"{way_title(row.way)}, batch {row.batch}", row.length, result.ratio(row)) for row in rows)


def _speeds(result: BenchResult) -> Curves:
    """Transformers with a cache: at the first length."""
    rows = [row for row in result.rows if row.length == result.lengths[0]]
    return _curves((way_title(row.way), row.batch, result.tokens_per_second(row)) for row in rows)


def _curves(points: Iterable[tuple[str, float, float]]) -> Curves:
    """(name, x, y) by name, in the order of x, without what is not known."""
    curves: Curves = {}
    for name, x, y in points:
        if math.isfinite(y):
            curves.setdefault(name, []).append((x, y))
    return {name: sorted(curve) for name, curve in curves.items()}


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A fraction in whole percent."""
    return f"{value:.0%}" if math.isfinite(value) else "-"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
