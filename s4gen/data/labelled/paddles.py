"""Paddles, the short strokes that contours of Pathfinder are made of: their ink, and the room that they take.

Everything is exact: directions are whole numbers of 2^-16, areas are counted in 64 points of each pixel, and sets of
pixels are bits of Python's integers. So every machine draws the same bytes, and a set is moved by one shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
"""Row and column of a pixel."""

_ONE = 1 << 16
"""The length of a direction."""
_POINTS = 8
"""Points of a pixel along each side, of which an area is the share that is covered."""
_CAP = 0.25
"""Pixels by which ink reaches beyond both ends of a paddle, as half a pixel does in the benchmark's drawing, which is
made at twice the size."""
_WEIGHT = 1 << 20
"""The weight of going straight on."""

_TOUCHED, _COVERED = 0.3, 0.9
"""A pixel counts as occupied for what wants to begin there from the first share on that a paddle takes of it; two
paddles cross in it where both take the second share. (In the benchmark: mask - 0.3 > 0, and two masks add to 1.8.)"""


@dataclass(frozen=True)
class Canvas:
    """The pixels of a square image, with a rim around it so that nothing that is drawn has to be cut off.

    Pixel (row, column) of the image is bit `bit(row, column)` of a set.
    """

    size: int
    rim: int

    @property
    def width(self) -> int:
        return self.size + 2 * self.rim

    def bit(self, row: int, column: int) -> int:
        """Return the number of a pixel; rows and columns of the rim are negative, or `size` and more."""
        return (row + self.rim) * self.width + column + self.rim

    def point(self, bit: int) -> Point:
        """Invert `bit`."""
        row, column = divmod(bit, self.width)
        return row - self.rim, column - self.rim

    def outside(self, border: int) -> int:
        """Return the set of all but the image, and of its pixels that are nearer than `border` to its edge."""
        inner = np.ones((self.width, self.width), bool)
        low, high = self.rim + border, self.rim + self.size - border
        inner[low:high, low:high] = False
        return ~as_set(~inner)


def as_set(pixels: NDArray[np.bool_]) -> int:
    """Return the set of the pixels, in the order of their memory, that are true."""
    return int.from_bytes(np.packbits(pixels.ravel(), bitorder="little").tobytes(), "little")


def members(pixels: int) -> NDArray[np.int64]:
    """Return the numbers of the pixels in a set, ascending."""
    content = pixels.to_bytes((pixels.bit_length() + 7) // 8, "little")
    return np.flatnonzero(np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little"))


@dataclass(frozen=True)
class Stamp:
    """A paddle, or a marker, around the pixel at which it begins."""

    ink: NDArray[np.float64]
    """(2 r + 1, 2 r + 1) the share of each pixel that is covered; the pixel where it begins is in the middle."""
    touched: int
    """Set of the pixels that its surroundings touch; like all sets of a stamp, moved so that bit 0 is the corner."""
    covered: int
    """Set of the pixels that its surroundings nearly cover."""
    inside: tuple[int, ...]
    """The pixels that its surroundings cover wholly, as differences to the number of the pixel where it begins."""
    corner: int
    """The number of the pixel where it begins less that of the corner."""

    def place(self, pixels: int, bit: int) -> int:
        """Move one of the sets to where the paddle begins in pixel `bit`."""
        return pixels << (bit - self.corner)


def direction(row: float, column: float) -> Point:
    """Return the direction of a vector in whole numbers of 2^-16."""
    length = math.hypot(row, column)
    return round(_ONE * row / length), round(_ONE * column / length)


def turned(degree: int) -> Point:
    """Return the direction that is so many degrees away from the direction of the columns, towards that of the rows."""
    return direction(math.sin(math.radians(degree)), math.cos(math.radians(degree)))


def ahead(way: Point, distance: int) -> Point:
    """Return the pixel that lies at a distance in a direction, as a difference of rows and columns."""
    return tuple(_nearest(component * distance) for component in way)  # type: ignore[return-value]


def _nearest(value: int) -> int:
    """Round a number of 2^-16, halves away from zero, so that a way and its opposite lead equally far."""
    return (abs(value) + _ONE // 2) // _ONE * (1 if value >= 0 else -1)


def paddle(canvas: Canvas, way: Point, length: int, thickness: float, margin: int) -> Stamp:
    """Return a paddle that begins in a pixel and goes on for `length` in the direction `way`, with its surroundings.

    The surroundings are everything at most `margin` away from its ink, and the ink itself.
    """
    reach = length + margin + math.ceil(thickness)
    rows, columns = _points(reach)
    # All in units of 2^-16 of half a point's distance.
    unit = 2 * _POINTS * _ONE
    along, across = rows * way[0] + columns * way[1], np.abs(rows * way[1] - columns * way[0])
    half, cap, end = round(thickness / 2 * unit), round(_CAP * unit), length * unit
    ink = (across <= half) & (along >= -cap) & (along <= end + cap)
    beyond = np.maximum(np.maximum(along - (end + cap), -cap - along), 0)
    beside = np.maximum(across - half, 0)
    near = beyond**2 + beside**2 <= (margin * unit) ** 2
    share = _shares(near)
    row, column = np.nonzero(share == 1)
    inside = tuple(((row - reach) * canvas.width + column - reach).tolist())
    return Stamp(
        _shares(ink),
        _small_set(canvas, share > _TOUCHED),
        _small_set(canvas, share >= _COVERED),
        inside,
        reach * canvas.width + reach,
    )


@cache
def disc(radius: float) -> NDArray[np.float64]:
    """Return the ink of a marker, (2 r + 1, 2 r + 1)."""
    rows, columns = _points(math.ceil(radius))
    return _shares(rows**2 + columns**2 <= round((2 * _POINTS * radius) ** 2))


def disc_shifts(canvas: Canvas, radius: int) -> list[int]:
    """Return half of the pixels that are at most `radius` away, as differences of numbers; the others mirror them.

    A set, with all its copies moved by these differences up and down, is the set of all that is so near to it.
    """
    offsets = range(-radius, radius + 1)
    pixels = [row * canvas.width + column for row in offsets for column in offsets if row**2 + column**2 <= radius**2]
    return [shift for shift in pixels if shift > 0]


def _points(reach: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the points of all pixels up to `reach` away, in units of half their distance."""
    side = (2 * reach + 1) * _POINTS
    line = 2 * np.arange(side) + 1 - side
    return line[:, None], line[None, :]


def _shares(points: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of the points of each pixel that is true."""
    side = len(points) // _POINTS
    mean: NDArray[np.float64] = points.reshape(side, _POINTS, side, _POINTS).mean((1, 3))
    return mean


def _small_set(canvas: Canvas, pixels: NDArray[np.bool_]) -> int:
    """Return a set of pixels (side, side) whose bit 0 is the corner, in rows as long as those of the canvas."""
    wide = np.zeros((len(pixels), canvas.width), bool)
    wide[:, : len(pixels)] = pixels
    return as_set(wide)


def turning_weights(last: Point, ways: list[Point], continuity: float) -> list[int]:
    """Return for each way on how probable it is after the direction `last`: cos^2 of the angle times `continuity`.

    From a right angle on it is 0. The weights are whole numbers, up to 2^20.
    """
    weights = []
    for row, column in ways:
        angle = abs(math.atan2(last[1] * row - last[0] * column, last[0] * row + last[1] * column))
        weights.append(round(_WEIGHT * math.cos(min(continuity * angle, math.pi / 2)) ** 2))
    return weights


def circle(radius: int) -> list[Point]:
    """Return the pixels on a circle, as differences to its middle, each once, in a fixed order."""
    steps = math.ceil(2 * math.pi * radius)
    angles = [step / radius for step in range(steps)]
    points = {(math.floor(radius * math.sin(a) + 0.5), math.floor(radius * math.cos(a) + 0.5)) for a in angles}
    return sorted(points)
