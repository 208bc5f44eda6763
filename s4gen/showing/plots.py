"""Plots of training as PNG bytes, and the figure and axes that other plots begin with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Point = tuple[float, float]

OURS = "#2563eb"
"""The colour of what this package does."""


def loss_curve(train: Sequence[Point], held_out: Sequence[Point]) -> bytes:
    """Draw bits/dim against the step: every logged training step, and the evaluations on held-out images."""
    figure = new_figure(3.6)
    axes = new_axes(figure, "step", "bits/dim")
    if train:
        axes.plot(*zip(*train, strict=True), color="#93c5fd", linewidth=1, label="training batch")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=OURS, linewidth=2, marker="o", markersize=4, label="held out")
    values = sorted(value for _, value in [*train, *held_out])
    if values:
        # The first steps are far above the rest: the axis stops at what most of the run looks like.
        axes.set_ylim(0, min(values[-1], 2 * values[len(values) // 2]) * 1.05)
        axes.legend(frameon=False)
    return png_of(figure)


def learning_curves(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> bytes:
    """Draw the losses of several runs, each smoothed over a tenth of its points; the axis leaves out how they began."""
    figure = new_figure(5.2)
    axes = new_axes(figure, x_label, y_label)
    ends = []
    for i, (name, points) in enumerate(curves.items()):
        smooth = _smoothed(points)
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(*zip(*smooth, strict=True), color=f"C{i % 10}", linestyle=style, linewidth=1.4, label=name)
        ends += [smooth[-1][1], smooth[len(smooth) // 8][1]]
    if ends:
        if min(ends) < max(ends):
            axes.set_ylim(min(ends) * 0.97, max(ends) * 1.02)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return png_of(figure)


def curves_over(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> bytes:
    """Draw curves as they are, one colour and style for each, with a legend of at most 20 of them."""
    figure = new_figure(3.6)
    axes = new_axes(figure, x_label, y_label)
    for i, (name, points) in enumerate(curves.items()):
        style = ("-", "--", ":")[i // 10 % 3]
        mark = "o" if len(points) == 1 else ""  # a line needs two points
        axes.plot(
            *zip(*points, strict=True), color=f"C{i % 10}", linestyle=style, marker=mark, linewidth=1.4, label=name
        )
    if len(curves) <= 20:
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return png_of(figure)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the running mean: of each point and those before it, a tenth of all at most."""
    size = max(1, len(points) // 10)
    parts = [points[max(0, i + 1 - size) : i + 1] for i in range(len(points))]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def new_figure(height: float) -> Figure:
    """Return an empty figure, `height` inches high, of the width that all plots have."""
    # Figure without pyplot: no global state, and no window system is ever asked for.
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), layout="constrained")


def new_axes(figure: FigureBase, x_label: str, y_label: str) -> Axes:
    """Return the axes that fill a figure, with labels, a light grid and no frame."""
    axes: Axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def png_of(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)  # a Figure without pyplot draws with Agg
    return buffer.getvalue()
