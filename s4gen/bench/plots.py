"""Plots of the benchmark of generation as PNG bytes: speed as bars, curves over position, length or batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from s4gen.bench.result import GenerationResult
from s4gen.bench.ways import CACHED, title_of
from s4gen.showing.plots import OURS, Point, new_axes, new_figure, png_of

Curves = dict[str, list[Point]]
"""Points (x, y) in the order of x, by the name of the curve."""

_OUR_OTHERS = ("#60a5fa", "#1e3a8a", "#38bdf8", "#0e7490")
_THEIRS = ("#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2")


def plot(result: GenerationResult) -> bytes:
    """Return a PNG with a panel for everything that was varied: position, length, batch size."""
    ours = [title_of(way) for way in result.engines]
    shown = []
    if any(row.cost_by_position for row in result.rows):
        shown.append(Panel("position in the sequence", "ms per token", _costs(result), ours))
    if len(result.lengths) > 1:
        shown.append(Panel("length of the sequence", "time per token, our best engine = 1", _ratios(result), ours))
    if len(result.batches) > 1:
        shown.append(Panel("batch size", "tokens per second", _speeds(result), ours))
    return panels(shown)


def _costs(result: GenerationResult) -> Curves:
    return {title_of(row.way): list(row.cost_by_position.items()) for row in result.rows if row.cost_by_position}


def _ratios(result: GenerationResult) -> Curves:
    rows = [row for row in result.rows if row.way in CACHED]
    return _curves((f"{title_of(row.way)}, batch {row.batch}", row.length, result.ratio(row)) for row in rows)


def _speeds(result: GenerationResult) -> Curves:
    """Return tokens per second against batch size; Transformers with a cache are shown at the first length."""
    rows = [row for row in result.rows if row.length == result.lengths[0]]
    return _curves((title_of(row.way), row.batch, result.tokens_per_second(row)) for row in rows)


def _curves(points: Iterable[tuple[str, float, float]]) -> Curves:
    """Sort points (name, x, y) into curves, without those whose y is not known."""
    curves: Curves = {}
    for name, x, y in points:
        if math.isfinite(y):
            curves.setdefault(name, []).append((x, y))
    return {name: sorted(curve) for name, curve in curves.items()}


@dataclass(frozen=True)
class Panel:
    """Curves over one quantity, both axes logarithmic; those in `ours` stand out."""

    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[Point]]
    ours: Sequence[str]


def panels(shown: Sequence[Panel]) -> bytes:
    """Draw panels one below the other, each with a legend of its own, and return the PNG."""
    figure = new_figure(4.0 * max(1, len(shown)))
    for part, panel in zip(figure.subfigures(max(1, len(shown)), 1, squeeze=False)[:, 0], shown, strict=False):
        axes = new_axes(part, panel.x_label, panel.y_label)
        for (name, points), colour in zip(panel.curves.items(), _colours(list(panel.curves), panel.ours), strict=True):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=2, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = [value for points in panel.curves.values() for _, value in points]
        if values:
            # At least two decades, so that noise on a flat line does not fill the plot.
            axes.set_ylim(min(values) / 4, max(max(values) * 2, min(values) * 25))
            part.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return png_of(figure)


def speed_bars(speeds: Mapping[str, float], ours: Sequence[str], unit: str = "tokens per second") -> bytes:
    """Draw one bar per way to generate, logarithmic, the fastest on top, with its number, and return the PNG."""
    names = sorted(speeds, key=lambda name: speeds[name])
    figure = new_figure(1.2 + 0.42 * len(names))
    axes = new_axes(figure, unit, "")
    values = [speeds[name] for name in names]
    bars = axes.barh(names, values, color=_colours(names, ours), height=0.65)
    axes.bar_label(bars, labels=[f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values], padding=4)
    axes.set_xscale("log")
    if values:
        axes.set_xlim(min(values) / 3, max(values) * 8)
    axes.grid(axis="y", visible=False)
    return png_of(figure)


def _colours(names: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return a colour for each name: blue ones for ours, others for the rest."""
    mine = dict(zip([name for name in names if name in ours], (OURS, *_OUR_OTHERS), strict=False))
    others = [name for name in names if name not in ours]
    theirs = {name: _THEIRS[i % len(_THEIRS)] for i, name in enumerate(others)}
    return [mine.get(name, OURS) if name in ours else theirs[name] for name in names]
