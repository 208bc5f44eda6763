"""Pathfinder as the Long Range Arena defines it: are the two marked ends of two dashed contours those of one contour?

Linsley et al. (arXiv 1805.08315) and their program (github.com/drewlinsley/pathfinder, `snakes2.py`), with the numbers
of Tay et al., "Long Range Arena" (arXiv 2011.04006). An image has two contours of `contour` paddles, and further ones,
`distractor` paddles long. One end of each of the two may carry a marker: both ends of one contour (class "yes"), or an
end of each (class "no").

This is the program's procedure in words:

- The first paddle of the first contour begins near the middle of the image, that of the second one at `seed_distance`.
- A contour goes on behind a gap of twice the margin, by turns of both contours. Behind the last paddle is a pivot; the
  next one ends on a circle around it, with a probability of cos^2(continuity * turn), where there is room.
- A paddle may not cross the surroundings of others. If it does, three times over, or if there is no room, an image is
  begun anew; a distractor is tried five times, and then left out.

The program's rounding is not repeated (it rounds up where this rounds to the nearest pixel), nor are two slips in its
book-keeping: it looks for room for a first paddle one pixel beside it, and forgets the latest paddle of the other
contour, so that both may cross there. Ink is exact area, where the program shrinks an image of twice the size. Classes
are balanced exactly, where the program tosses a coin.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from s4gen.data.labelled.contours import Artist, Definition, Scene
from s4gen.data.labelled.draws import Draws
from s4gen.data.labelled.paddles import Point, disc

CLASSES = ("no", "yes")
COUNTS = (160_000, 20_000, 20_000)
CHUNK = 250
"""Examples that are made of one stream of random numbers; even, so that every chunk has as many of both classes."""

Pixels = NDArray[np.uint8]
Ink = NDArray[np.float64]


PATHFINDER = Definition()
PATHX = Definition(
    size=128,
    seed_distance=20,
    marker_radius=3.0,
    cells=35,
    length=5,
    thickness=1.5,
    margins=(2, 3),
    continuity=1.8,
    contrast=0.9,
    paddle_contrast=1.0,
)
DEFINITIONS = {"pathfinder": PATHFINDER, "pathx": PATHX}


@dataclass(frozen=True)
class Example:
    """An image with its class and with what it shows."""

    image: Pixels
    """(size, size), the brightest pixel is 255."""
    label: int
    """1 if both markers are on one contour."""
    markers: tuple[Point, Point]
    scene: Scene


def contours_of(name: str, contour: int) -> Definition:
    """Return the definition of a set, with contours of so many paddles; 0 takes those of the benchmark."""
    found = DEFINITIONS[name]
    return replace(found, contour=contour) if contour else found


def examples(definition: Definition, seed: int = 0, chunks: Iterable[int] | None = None) -> Iterator[Example]:
    """Yield examples of class 0, 1, 0, 1, ..., those of one chunk after another.

    Each chunk has its own random numbers, so chunks may be made in any order, and by several processes. Without
    `chunks` they are 0, 1, 2, .., without end.
    """
    artists = [Artist(definition, margin) for margin in definition.margins]
    for chunk in itertools.count() if chunks is None else chunks:
        draws = Draws(seed, chunk)
        for number in range(CHUNK):
            label = number % 2
            artist = artists[draws.below(len(artists))]
            while (scene := artist.scene(draws)) is None:
                pass
            first = draws.below(2)
            second = first if label else 1 - first
            markers = scene.contours[first].ends[0], scene.contours[second].ends[1]
            yield Example(paint(definition, scene, markers), label, markers, scene)


def paint(definition: Definition, scene: Scene, markers: tuple[Point, ...]) -> Pixels:
    """Return the image (size, size) of a scene with markers, of which the brightest pixel is 255."""
    rim = definition.length + max(definition.margins) + 4  # wide enough for whatever begins in the image
    ink = np.zeros((definition.size + 2 * rim, definition.size + 2 * rim))
    target = definition.contrast * definition.paddle_contrast
    contours = [(contour, target) for contour in scene.contours]
    contours += [(contour, definition.contrast) for contour in scene.distractors]
    for contour, contrast in contours:
        for (row, column), stamp in contour.strokes:
            _put(ink, (row + rim, column + rim), stamp.ink * contrast)
    for row, column in markers:
        _put(ink, (row + rim, column + rim), disc(definition.marker_radius))
    shown = ink[rim:-rim, rim:-rim]
    return np.floor(shown / shown.max() * 255 + 0.5).astype(np.uint8)


def _put(ink: Ink, middle: Point, brightness: Ink) -> None:
    """Add something to the ink around a pixel; where there is more already, it stays."""
    reach = len(brightness) // 2
    row, column = middle[0] - reach, middle[1] - reach
    part = ink[row : row + len(brightness), column : column + len(brightness)]
    np.maximum(part, brightness, out=part)
