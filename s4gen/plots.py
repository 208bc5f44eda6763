"""Plots as PNG bytes: the loss curve, speed as bars, cost per token against position."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

_OURS = "#2563eb"
_OTHERS = ("#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2")


def loss_curve(train: Sequence[Point], held_out: Sequence[Point]) -> bytes:
    """bits/dim against the step: every logged training step, and the evaluations on held-out images."""
    figure, axes = _axes("step", "bits/dim")
    if train:
        axes.plot(*zip(*train, strict=True), color="#93c5fd", linewidth=1, label="training batch")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=_OURS, linewidth=2, marker="o", markersize=4, label="held out")
    values = sorted(value for _, value in [*train, *held_out])
    if values:
        # The first steps are far above the rest: the axis stops at what most of the run looks like.
        axes.set_ylim(0, min(values[-1], 2 * values[len(values) // 2]) * 1.05)
        axes.legend(frameon=False)
    return _png(figure)


def cost_by_position(curves: Mapping[str, Sequence[Point]], ours: Sequence[str]) -> bytes:
    """Milliseconds per token against the position in the sequence, both logarithmic; `ours` stand out."""
    figure, axes = _axes("position in the sequence", "ms per token", height=4.0)
    for (name, points), colour in zip(curves.items(), _colours(list(curves), ours), strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=2, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = [value for points in curves.values() for _, value in points]
    if values:
        # At least two decades, so that noise on a flat line does not fill the plot.
        axes.set_ylim(min(values) / 4, max(max(values) * 2, min(values) * 25))
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return _png(figure)


def speed_bars(speeds: Mapping[str, float], ours: Sequence[str], unit: str = "tokens per second") -> bytes:
    """One bar per way to generate, logarithmic, the fastest on top and every bar with its number."""
    names = sorted(speeds, key=lambda name: speeds[name])
    figure, axes = _axes(unit, "", height=1.2 + 0.42 * len(names))
    values = [speeds[name] for name in names]
    bars = axes.barh(names, values, color=_colours(names, ours), height=0.65)
    axes.bar_label(bars, labels=[f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values], padding=4)
    axes.set_xscale("log")
    if values:
        axes.set_xlim(min(values) / 3, max(values) * 8)
    axes.grid(axis="y", visible=False)
    return _png(figure)


def _colours(names: Sequence[str], ours: Sequence[str]) -> list[str]:
    others = [name for name in names if name not in ours]
    mine = dict(zip([name for name in names if name in ours], (_OURS, "#60a5fa", "#1e3a8a", "#38bdf8"), strict=False))
    theirs = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return [mine.get(name, _OURS) if name in ours else theirs[name] for name in names]


def _axes(x_label: str, y_label: str, height: float = 3.6) -> tuple[Figure, Axes]:
    # Figure without pyplot: no global state, and no window system is ever asked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)  # a Figure without pyplot draws with Agg
    return buffer.getvalue()
