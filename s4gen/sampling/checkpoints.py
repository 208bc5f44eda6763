"""States that a generation keeps on its way, so that it can go back: many of late, few of long ago."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from s4gen.sampling.prompts import Start


@dataclass(frozen=True)
class Checkpoints:
    """Which states are kept: one every so many tokens, and of old ones fewer and fewer."""

    every: int = 256
    """Tokens from one state to the next. To go back draws fewer than so many again, where nothing is thinned out."""
    most: int = 16
    """States that are kept at most, that of the start included, so that memory is bounded."""

    def __post_init__(self) -> None:
        """Refuse numbers below 1 with ValueError."""
        if self.every < 1 or self.most < 1:
            raise ValueError(f"checkpoints every {self.every} tokens, {self.most} at most: expected at least 1 of both")


class Trail:
    """The states that one generation has kept, by the number of tokens that it had drawn; the start is never lost."""

    def __init__(self, rule: Checkpoints, start: Start) -> None:
        self.rule = rule
        self._kept: list[tuple[int, Start]] = [(0, start)]

    def __len__(self) -> int:
        """Return how many states are kept."""
        return len(self._kept)

    def due(self, drawn: int) -> int:
        """Return how many tokens may be drawn behind the first `drawn` ones before the next state is kept."""
        return self.rule.every - drawn % self.rule.every

    def pass_by(self, drawn: int, where: Callable[[], Start]) -> None:
        """Keep the state behind the first `drawn` tokens if it is due, and thin out the others."""
        if drawn % self.rule.every or self.rule.most == 1:
            return
        self._kept.append((drawn, where()))
        if len(self._kept) > self.rule.most:
            # The distance between neighbours may grow with their age: going back n tokens then draws about n again.
            # What goes is the state whose neighbours are nearest to each other for its age; never the first or last.
            places = [place for place, _ in self._kept]
            gaps = {
                i: (places[i + 1] - places[i - 1]) / (drawn - places[i] + self.rule.every)
                for i in range(1, len(places) - 1)
            }
            del self._kept[min(gaps, key=lambda i: gaps[i])]

    def before(self, drawn: int) -> tuple[int, Start]:
        """Return the last state that was kept at or before the first `drawn` tokens, and its number of tokens."""
        return next(kept for kept in reversed(self._kept) if kept[0] <= drawn)

    def up_to(self, drawn: int) -> Trail:
        """Return a trail of the states at or before the first `drawn` tokens."""
        return self._with([kept for kept in self._kept if kept[0] <= drawn])

    def rows(self, rows: Tensor) -> Trail:
        """Return a trail of these rows int64 (R,) alone, in that order."""
        return self._with([(place, start.rows(rows)) for place, start in self._kept])

    def _with(self, kept: list[tuple[int, Start]]) -> Trail:
        trail = Trail(self.rule, kept[0][1])
        trail._kept = kept
        return trail
