"""Plots as PNG bytes: the loss curve, speed as bars, curves over position, length or batch size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Point = tuple[float, float]

_OURS = "#2563eb"
_OTHERS = ("#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2")


def loss_curve(train: Sequence[Point], held_out: Sequence[Point]) -> bytes:
    """bits/dim against the step: every logged training step, and the evaluations on held-out images."""
    figure = _figure(3.6)
    axes = _axes(figure, "step", "bits/dim")
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


def learning_curves(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> bytes:
    """The losses of several runs, each smoothed over a tenth of its points; the axis leaves out how they began."""
    figure = _figure(5.2)
    axes = _axes(figure, x_label, y_label)
    ends = []
    for i, (name, points) in enumerate(curves.items()):
        smooth = _smoothed(points)
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(*zip(*smooth, strict=True), color=f"C{i % 10}", linestyle=style, linewidth=1.4, label=name)
        ends += [smooth[-1][1], smooth[len(smooth) // 8][1]]
    if ends:
        axes.set_ylim(min(ends) * 0.97, max(ends) * 1.02)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of each point and those before it, a tenth of all at most."""
    size = max(1, len(points) // 10)
    parts = [points[max(0, i + 1 - size) : i + 1] for i in range(len(points))]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


@dataclass(frozen=True)
class Panel:
    """Curves over one quantity, both axes logarithmic; those in `ours` stand out."""

    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[Point]]
    ours: Sequence[str]


def panels(shown: Sequence[Panel]) -> bytes:
    """Panels one below the other, each with a legend of its own."""
    figure = _figure(4.0 * max(1, len(shown)))
    for part, panel in zip(figure.subfigures(max(1, len(shown)), 1, squeeze=False)[:, 0], shown, strict=False):
        axes = _axes(part, panel.x_label, panel.y_label)
        for (name, points), colour in zip(panel.curves.items(), _colours(list(panel.curves), panel.ours), strict=True):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=2, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = [value for points in panel.curves.values() for _, value in points]
        if values:
            # At least two decades, so that noise on a flat line does not fill the plot.
            axes.set_ylim(min(values) / 4, max(max(values) * 2, min(values) * 25))
            part.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


def speed_bars(speeds: Mapping[str, float], ours: Sequence[str], unit: str = "tokens per second") -> bytes:
    """One bar per way to generate, logarithmic, the fastest on top and every bar with its number."""
    names = sorted(speeds, key=lambda name: speeds[name])
    figure = _figure(1.2 + 0.42 * len(names))
    axes = _axes(figure, unit, "")
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
    mine = dict(
        zip([name for name in names if name in ours], (_OURS, "#60a5fa", "#1e3a8a", "#38bdf8", "#0e7490"), strict=False)
    )
    theirs = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return [mine.get(name, _OURS) if name in ours else theirs[name] for name in names]


def _figure(height: float) -> Figure:
    # Figure without pyplot: no global state, and no window system is ever asked for.
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), layout="constrained")


def _axes(figure: FigureBase, x_label: str, y_label: str) -> Axes:
    axes: Axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)  # a Figure without pyplot draws with Agg
    return buffer.getvalue()
