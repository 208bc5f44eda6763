"""The contours of Pathfinder: where their paddles lie. The procedure is told in `s4gen.data.labelled.pathfinder`."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s4gen.data.labelled import paddles
from s4gen.data.labelled.draws import Draws
from s4gen.data.labelled.paddles import Canvas, Point, Stamp

_TRIES = 3
"""How often a paddle is drawn anew that crosses others; and how often a first one that leaves the image."""
_DISTRACTOR_TRIES = 5
_FULL = 0.01
"""No distractor is begun when a smaller share of the pixels is free."""


@dataclass(frozen=True)
class Definition:
    """The numbers of a set of images. The defaults are those of Pathfinder 32, with contours of 14 paddles."""

    size: int = 32
    padding: int = 1
    """Pixels at the edge of the image that are kept free."""
    seed_distance: int = 7
    marker_radius: float = 1.5
    contour: int = 14
    """Paddles of a contour."""
    cells: int = 20
    """Paddles of all distractors together; those of one are a third of a contour's."""
    length: int = 2
    """Pixels of a paddle, along it."""
    thickness: float = 0.5
    margins: tuple[int, ...] = (1,)
    """Half the gaps between paddles, and the distance that is kept from others; one of them is drawn for each image."""
    continuity: float = 1.0
    contrast: float = 2.0
    """The brightness of distractors."""
    paddle_contrast: float = 0.75
    """The brightness of the two contours is this share of `contrast`."""

    @property
    def distractor(self) -> int:
        """Paddles of a distractor."""
        return max(1, self.contour // 3)

    @property
    def distractors(self) -> int:
        """How many distractors there are, if all of them find room."""
        return self.cells // self.distractor


@dataclass(frozen=True)
class Contour:
    """A contour of an image."""

    ends: tuple[Point, Point]
    """Where its first paddle begins, and where its last one ends."""
    strokes: tuple[tuple[Point, Stamp], ...]
    """Its paddles: the pixel where the stamp is put, and the stamp."""


@dataclass(frozen=True)
class Scene:
    """Everything that an image shows."""

    contours: tuple[Contour, Contour]
    distractors: tuple[Contour, ...]


class _Way(NamedTuple):
    """A direction of a first paddle, or a way on from a pivot, and all that follows from it; places are bit numbers."""

    to_end: int
    """From where a first paddle begins, or from a pivot, to the end of the paddle."""
    to_pivot: int
    """From where a first paddle begins to its pivot, a margin before that."""
    step: int
    """From the pivot of this paddle to the next one, a margin behind it."""
    stamp: Stamp
    ways_on: list[tuple[int, int, int]]
    """The ways on behind this paddle that are possible: the pixel in the window, the weight, and the number."""


class _Tip(NamedTuple):
    """A contour under way. The surroundings of its last paddle are not occupied yet, so that it can go on there."""

    pivot: int
    way: _Way
    """The way of its last paddle."""
    strokes: tuple[tuple[int, Stamp], ...]


class _Room(NamedTuple):
    """The occupied pixels of an image: those where nothing may begin, and those where nothing may cross."""

    touched: int
    covered: int

    def with_last(self, tip: _Tip) -> _Room:
        """Add the surroundings of the last paddle of a contour."""
        bit, stamp = tip.strokes[-1]
        return _Room(self.touched | stamp.place(stamp.touched, bit), self.covered | stamp.place(stamp.covered, bit))


class Artist:
    """Draws scenes of one definition and margin, with stamps and weights that are made once."""

    def __init__(self, definition: Definition, margin: int) -> None:
        self._definition, self._margin = definition, margin
        self._reach = definition.length + margin
        # Wide enough for a pivot outside of the image, what may lie around it, and the surroundings of that.
        self._canvas = Canvas(definition.size, self._reach + 2 * margin + 4)
        self._circle = paddles.circle(self._reach)
        self._image = ~self._canvas.outside(0)
        edge = self._canvas.outside(definition.padding)
        self._empty = _Room(edge, edge)
        self._far = self._canvas.outside(2 * definition.seed_distance)
        # What is occupied around a pivot is looked at through a window, as small sets are moved faster.
        self._middle = (self._reach + margin) * (self._canvas.width + 1)
        self._window = (1 << (2 * self._middle + 1)) - 1
        self._disc = paddles.disc_shifts(self._canvas, margin)
        self._first_way = lru_cache(maxsize=None)(self._make_first_way)
        self._first_places = lru_cache(maxsize=None)(self._find_first_places)
        turns = [paddles.direction(*point) for point in self._circle]
        # The paddle that ends on the circle is drawn from there towards the pivot.
        self._ways_on = [
            self._way(way, self._shift(point), (-way[0], -way[1]))
            for way, point in zip(turns, self._circle, strict=True)
        ]

    def _make_first_way(self, degree: int) -> _Way:
        """Return the way of a first paddle."""
        way = paddles.turned(degree)
        return self._way(way, self._shift(paddles.ahead(way, self._definition.length)), way)

    def _way(self, way: Point, to_end: int, drawn: Point) -> _Way:
        definition, margin = self._definition, self._margin
        stamp = paddles.paddle(self._canvas, drawn, definition.length, definition.thickness, margin)
        turns = [paddles.direction(*point) for point in self._circle]
        weights = paddles.turning_weights(way, turns, definition.continuity)
        places = [self._middle + self._shift(point) for point in self._circle]
        return _Way(
            to_end,
            self._shift(paddles.ahead((-way[0], -way[1]), margin)),
            self._shift(paddles.ahead(way, definition.length + 2 * margin)),
            stamp,
            [
                (place, weight, number)
                for number, (place, weight) in enumerate(zip(places, weights, strict=True))
                if weight
            ],
        )

    def _shift(self, apart: Point) -> int:
        """Return a difference of rows and columns as one of bit numbers."""
        return apart[0] * self._canvas.width + apart[1]

    def scene(self, draws: Draws) -> Scene | None:
        """Draw two contours and the distractors; None if one of the contours finds no room."""
        found = self._two_contours(draws)
        if found is None:
            return None
        contours, room = found
        distractors = []
        for _ in range(self._definition.distractors):
            for _ in range(_DISTRACTOR_TRIES):
                if (made := self._distractor(draws, room)) is not None:
                    distractor, room = made
                    distractors.append(distractor)
                    break
        return Scene(contours, tuple(distractors))

    def _two_contours(self, draws: Draws) -> tuple[tuple[Contour, Contour], _Room] | None:
        first = self._begin(draws, None)
        second = None if first is None else self._begin_at_distance(draws, first.strokes[0][0])
        if first is None or second is None:
            return None
        room, tips = self._empty, [first, second]
        for _ in range(self._definition.contour - 1):
            for number, tip in enumerate(tips):
                if (extended := self._extend(draws, tip, room.with_last(tips[1 - number]))) is None:
                    return None
                tips[number], room = extended, room.with_last(tip)
        room = room.with_last(tips[0]).with_last(tips[1])
        return (self._contour(tips[0]), self._contour(tips[1])), room

    def _distractor(self, draws: Draws, room: _Room) -> tuple[Contour, _Room] | None:
        size = self._definition.size
        if (self._image & ~room.touched).bit_count() < _FULL * size * size:
            return None
        tip = self._begin(draws, room)
        for _ in range(self._definition.distractor - 1):
            if tip is None or (extended := self._extend(draws, tip, room)) is None:
                return None
            tip, room = extended, room.with_last(tip)
        return None if tip is None else (self._contour(tip), room.with_last(tip))

    def _begin(self, draws: Draws, room: _Room | None) -> _Tip | None:
        """Draw a first paddle, all of whose surroundings are free; None if there is no such place.

        Without a room it is that of the first contour, which begins near the middle of an empty image.
        """
        for _ in range(_TRIES):
            degree = draws.below(360)
            way = self._first_way(degree)
            places = self._first_places(degree) if room is None else self._free_places(way, room.touched)
            if not len(places):
                return None
            if (tip := self._first(way, int(places[draws.below(len(places))]))) is not None:
                return tip
        return None

    def _find_first_places(self, degree: int) -> NDArray[np.int64]:
        return self._free_places(self._first_way(degree), self._far)

    def _free_places(self, way: _Way, occupied: int) -> NDArray[np.int64]:
        """Return where a first paddle can begin without an occupied pixel in its surroundings, (n,) bit numbers."""
        taken = occupied
        for shift in way.stamp.inside:
            taken |= occupied >> shift if shift >= 0 else occupied << -shift
        return paddles.members(self._image & ~taken)

    def _begin_at_distance(self, draws: Draws, other: int) -> _Tip | None:
        """Draw the first paddle of the second contour; None if it leaves the image."""
        for _ in range(_TRIES):
            way = self._first_way(draws.below(360))
            apart = paddles.ahead(paddles.turned(draws.below(360)), self._definition.seed_distance)
            if (tip := self._first(way, other + self._shift(apart))) is not None:
                return tip
        return None

    def _first(self, way: _Way, start: int) -> _Tip | None:
        pivot = start + way.to_pivot
        if not (self._image >> (start + way.to_end) & 1 and self._image >> pivot & 1):
            return None
        return _Tip(pivot, way, ((start, way.stamp),))

    def _extend(self, draws: Draws, tip: _Tip, room: _Room) -> _Tip | None:
        """Draw the next paddle; None if there is no room for it. The last one is not in the room yet."""
        pivot = tip.pivot + tip.way.step
        seen = room.touched >> (pivot - self._middle) & self._window
        taken = seen
        for shift in self._disc:
            taken |= seen >> shift | seen << shift
        sums, numbers, total = [], [], 0
        for place, weight, number in tip.way.ways_on:
            if not taken >> place & 1:
                total += weight
                sums.append(total)
                numbers.append(number)
        if not total:
            return None
        for _ in range(_TRIES):
            way = self._ways_on[numbers[bisect_right(sums, draws.below(total))]]
            end = pivot + way.to_end
            if not room.covered & way.stamp.place(way.stamp.covered, end):
                return _Tip(pivot, way, (*tip.strokes, (end, way.stamp)))
        return None

    def _contour(self, tip: _Tip) -> Contour:
        strokes = tuple((self._canvas.point(bit), stamp) for bit, stamp in tip.strokes)
        return Contour((strokes[0][0], strokes[-1][0]), strokes)
