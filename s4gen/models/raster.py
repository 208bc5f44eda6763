"""How far apart the neighbours of a pixel are when an image is read row by row.

A pixel's position is its number in raster order, from 0; an image of `height` rows and `width` columns has the
positions 0 to height * width - 1, and the pixels after that belong to the next image. An offset (dr, dc) names
the pixel dr rows below and dc columns to the right of the present one; only pixels that come earlier in raster order
are ever looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Offset = tuple[int, int]

LEFT, ABOVE, ABOVE_LEFT, ABOVE_RIGHT = (0, -1), (-1, 0), (-1, -1), (-1, 1)
NEAREST = (LEFT, ABOVE_LEFT, ABOVE, ABOVE_RIGHT)
REACH = 3
"""A neighbourhood extends this many columns to either side."""


class Raster(NamedTuple):
    """The size of an image, in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """The number of pixels of one image."""
        return self.height * self.width

    def distance(self, offset: Offset) -> int:
        """Return how many pixels ago the pixel at this offset was read: at least 1.

        Raises:
            ValueError: the pixel at this offset is not read earlier.
        """
        back = -(offset[0] * self.width + offset[1])
        if back < 1:
            raise ValueError(f"the pixel at {offset} is not read before the present one, in rows of {self.width}")
        return back

    def inside(self, position: Tensor, offsets: Sequence[Offset]) -> Tensor:
        """Tell which pixels at these offsets from `position` int64 (...) lie in the same image: bool (..., offsets)."""
        position = position[..., None] % self.pixels
        rows, columns = torch.tensor(offsets, device=position.device).unbind(1)
        row, column = position // self.width + rows, position % self.width + columns
        return (row >= 0) & (column >= 0) & (column < self.width)


def neighbourhood(rows: int, width: int) -> tuple[Offset, ...]:
    """Return offsets of the pixels that the stem reads: REACH to the left, 2 REACH + 1 in each of `rows` rows above.

    With rows = 0 only the pixel to the left is read. Narrow images have fewer neighbours.
    """
    if not rows:
        return (LEFT,)
    reach = min(REACH, width - 1)
    left = [(0, -column) for column in range(1, max(reach, 1) + 1)]
    above = [(-row, column) for row in range(1, rows + 1) for column in range(-reach, reach + 1)]
    return (*left, *above)
