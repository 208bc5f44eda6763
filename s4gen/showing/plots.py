"""Plots of training, as PNG or as SVG for a page, and the figure and axes that other plots begin with."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.legend import Legend

Point = tuple[float, float]

OURS = "#2563eb"
"""The colour of what this package does."""
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#ec4899", "#06b6d4", "#84cc16")
"""Colours of curves that can be told apart on a light page and on a dark one."""
GREY = "#9ca3af"
"""The colour of all curves for which `COLOURS` has none left."""
_THEME = {"#1f2937": "--ink", "#6b7280": "--soft", "#e5e7eb": "--line"}
"""Colours of text, axes and grid, and the variables of a page (s4gen.showing.report) that take their place in SVG."""
_INK, _SOFT, _LINE = _THEME
_MOST_POINTS = 300
"""How many points of a curve are drawn; more would only make the page larger."""


class Curve(NamedTuple):
    """One curve of a picture."""

    points: Sequence[Point]
    colour: str
    faint: bool = False
    """Whether it is a thin, pale line, as training batches are beside held-out data."""


def learning_curves(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> bytes:
    """Draw the losses of several runs, each smoothed over a tenth of its points; the axis leaves out how they began."""
    figure = new_figure(5.2)
    axes = new_axes(figure, x_label, y_label)
    ends = []
    for i, (name, points) in enumerate(curves.items()):
        smooth = _smoothed(points)
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(*zip(*smooth, strict=True), color=f"C{i % 10}", linestyle=style, linewidth=1.4, label=_name(name))
        ends += [smooth[-1][1], smooth[len(smooth) // 8][1]]
    if ends:
        if min(ends) < max(ends):
            axes.set_ylim(min(ends) * 0.97, max(ends) * 1.02)
        _as_written(figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8))
    return png_of(figure)


def curves_over(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> bytes:
    """Draw curves as they are, one colour and style for each, with a legend of at most 20 of them."""
    figure = new_figure(3.6)
    axes = new_axes(figure, x_label, y_label)
    for i, (name, points) in enumerate(curves.items()):
        style = ("-", "--", ":")[i // 10 % 3]
        mark = "o" if len(points) == 1 else ""  # a line needs two points
        (line,) = axes.plot(*zip(*points, strict=True), color=f"C{i % 10}", linestyle=style, marker=mark, linewidth=1.4)
        line.set_label(_name(name))
    if len(curves) <= 20:
        _as_written(figure.legend(loc="outside right center", frameon=False, fontsize=8))
    return png_of(figure)


def _name(name: str) -> str:
    """Return a user's name as a label; matplotlib leaves those out of a legend that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _as_written(legend: Legend) -> None:
    """Show names with dollar signs as they are; matplotlib would read what is between two of them as mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def curves_svg(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Draw curves as SVG for the column of a page. The axis leaves out how they began, far above where they end.

    Points that are not finite are left out. What is in the picture besides is for the page to say, so no text of a
    user's gets into the SVG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = new_axes(figure, x_label, y_label)
    ends = []
    for curve in curves:
        points = [point for point in curve.points if all(map(math.isfinite, point))]
        if not points:
            continue
        shown = thinned(_smoothed(points) if curve.faint else points)
        marked = not curve.faint and len(shown) <= 30
        axes.plot(
            *zip(*shown, strict=True),
            color=curve.colour,
            alpha=0.6 if curve.faint else 1,
            linewidth=1 if curve.faint else 1.6,
            marker="o" if marked or len(shown) == 1 else "",
            markersize=3,
        )
        values = [value for _, value in shown[len(shown) // 8 :]]
        ends += [min(values), max(values)]
    if ends and min(ends) < max(ends):
        margin = 0.05 * (max(ends) - min(ends))
        axes.set_ylim(min(ends) - margin, max(ends) + margin)
    return svg_of(figure)


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most `most` of the points, evenly spread; the last one is always among them."""
    if len(points) <= most:
        return list(points)
    return [points[round((i + 1) * len(points) / most) - 1] for i in range(most)]


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
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.tick_params(color=_SOFT, labelcolor=_INK)
    axes.spines[:].set_color(_SOFT)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def png_of(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)  # a Figure without pyplot draws with Agg
    return buffer.getvalue()


def svg_of(figure: Figure) -> str:
    """Return the figure as an SVG element without a background, whose text and axes take the colours of the page."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Letters as text and not as outlines, so that they are sharp, can be selected, and are read by a screen reader.
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue())
    # The groups are numbered anew in each picture, so on a page with two of them a number would stand twice.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;]*;", "", svg)  # the page's own
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.strip()
