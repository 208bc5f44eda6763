"""Rows of many orders side by side in one session of an engine: they join and leave at any step.

A state is a value, so rows that join are stacked below those under way, and a new session begins with all of them.
Rows that have ended are still computed until half of a session is for nothing, or others join: a new session costs a
copy of all states.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from s4gen.models.states import chosen_rows, joined, padded_rows
from s4gen.sampling.chunking import Pace
from s4gen.sampling.engines import Engine, Session
from s4gen.sampling.prompts import Start
from s4gen.sampling.randomness import Uniforms
from s4gen.serving.orders import Order, Row


@dataclass(eq=False)
class Line:
    """A row under way: whose it is, and its random numbers."""

    order: Order
    row: Row
    uniforms: Uniforms

    @property
    def going(self) -> bool:
        """Whether it wants more tokens, and somebody still wants it."""
        return bool(self.row.left) and not self.order.channel.closed


class Batch:
    """Rows that one engine, with one setting of filters, draws side by side."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lines: list[Line] = []  # as in the session, with those that have ended
        self._session: Session | None = None
        self._token = torch.empty(0, dtype=torch.int64)  # the last token of each line, which is not fed yet
        self._pace = Pace()
        self._joining: list[tuple[list[Line], Start]] = []

    def __len__(self) -> int:
        """Return the number of rows that are going."""
        return sum(line.going for line in self._lines) + sum(line.going for lines, _ in self._joining for line in lines)

    def join(self, order: Order, rows: Sequence[Row], start: Start) -> None:
        """Let rows of an order, which stand at `start`, join with the next step."""
        positions = start.state.position.tolist()
        lines = [
            Line(order, row, Uniforms(order.seed, [row.number], [position]))
            for row, position in zip(rows, positions, strict=True)
        ]
        self._joining.append((lines, start))

    def advance(self) -> tuple[list[tuple[Line, list[int]]], float]:
        """Draw a few tokens; return those of each row that is going, and the seconds it took.

        Raises:
            UserError: the model's output is not a finite number.
        """
        self._arrange()
        lines, session = self._lines, self._session
        going = [line.going for line in lines]
        if session is None or not any(going):
            return [], 0.0
        # Only as many as some row still wants. A row that wants less is computed to the end and its tokens are dropped.
        steps = min(self._pace.steps, max(line.row.left for line, goes in zip(lines, going, strict=True) if goes))
        rows = padded_rows(len(lines), self.engine.row_multiple)
        u = torch.cat([line.uniforms.peek(steps) for line in lines])[rows]
        began = time.perf_counter()
        drawn = session.advance(chosen_rows(self._token, rows), u)[: len(lines)]
        seconds = time.perf_counter() - began
        self._pace.took(steps, seconds)
        self._token = drawn[:, -1].clone()
        for line in lines:
            line.uniforms.skip(steps)
        tokens: list[list[int]] = drawn.tolist()
        return [(line, own) for line, own, goes in zip(lines, tokens, going, strict=True) if goes], seconds

    def lines(self) -> list[Line]:
        """Return all rows that are here, those included that join with the next step."""
        return self._lines + [line for lines, _ in self._joining for line in lines]

    def _arrange(self) -> None:
        """Begin a new session where rows join, or where half of the present one has ended."""
        going = [i for i, line in enumerate(self._lines) if line.going]
        if not self._joining and 2 * len(going) > len(self._lines):
            return
        starts = []
        lines = [self._lines[i] for i in going]
        if self._session is not None and going:
            starts.append(Start(self._token, self._session.state()).rows(torch.tensor(going)))
        for newcomers, start in self._joining:
            chosen = [i for i, line in enumerate(newcomers) if line.going]
            if chosen:
                starts.append(start.rows(torch.tensor(chosen)))
                lines += [newcomers[i] for i in chosen]
        self._joining = []
        self._lines = lines
        self._session = None  # its memory is free before that of the next one is taken
        if starts:
            start = joined(starts)
            self._token = start.token
            rows = padded_rows(len(lines), self.engine.row_multiple)
            self._session = self.engine.begin(chosen_rows(start.state, rows))
