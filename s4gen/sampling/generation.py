"""Sequences under way: drawn in chunks, thinned out, suspended and continued."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.models.states import chosen_rows, padded_rows
from s4gen.sampling import suspend
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.pacing import Pace, interrupts_held
from s4gen.sampling.prompts import Start, Starts, checked_prompt
from s4gen.sampling.randomness import Uniforms
from s4gen.timing import synchronise

ENDLESS = sys.maxsize
"""A number of tokens that is never reached."""


class Generation:
    """Rows being drawn, one for each sequence; memory does not grow with the tokens drawn.

    What comes out of a row depends on the model, the engine, the filters, the seed, the row's sequence number, its
    prompt and its label: not on the other rows, and not on how many tokens are asked for at a time. An interrupted
    generation can be saved or go on: no token is lost.
    """

    def __init__(
        self,
        recurrent: RecurrentModel,
        engine: Engine,
        *,
        seed: int,
        sequences: Sequence[int],
        start: Start,
        ready: Tensor | None = None,
    ) -> None:
        """Go on from `start`, a row for each of `sequences`."""
        self._recurrent, self._engine, self._seed = recurrent, engine, seed
        self._ready = start.token.new_empty(len(sequences), 0) if ready is None else ready
        self._given = 0  # of `_ready`: tokens handed out
        self._pace = Pace()
        self._begin(list(sequences), start)

    @classmethod
    def start(
        cls,
        recurrent: RecurrentModel,
        n: int,
        *,
        seed: int,
        prompt: Tensor | None = None,
        labels: Tensor | None = None,
        filters: Filters | None = None,
        engine: str | Engine = "eager",
    ) -> Generation:
        """Sequences 0 .. n - 1 of a seed after their prompts (n, P), or (1, P) or (P,) for all: read once, then forked.

        `labels` are their classes, int64 (n,), where the model has some (None: all 0); `engine` is the name of one, or
        one that was made; `filters` are for one that is named (None: none).

        Raises:
            UserError: an unknown engine, or one made with other filters, or a prompt or labels that do not fit the
                model.
        """
        prompts = checked_prompt(recurrent, n, prompt, labels)
        runner = engine_of(engine, recurrent, filters, ENDLESS)
        start = Starts(recurrent, prompts, runner.filters).of(range(n))
        return cls(recurrent, runner, seed=seed, sequences=range(n), start=start)

    @classmethod
    def load(cls, path: str | Path, recurrent: RecurrentModel, engine: str = "eager") -> Generation:
        """The generation that `save` wrote. In the engine that drew it before, it goes on bit for bit.

        Raises:
            UserError: there is no such file, it is damaged, or it was written with another model.
        """
        seed, filters, sequences, start, ready = suspend.read(path, recurrent)
        runner = make_engine(engine, recurrent, filters, tokens=ENDLESS)
        return cls(recurrent, runner, seed=seed, sequences=sequences, start=start, ready=ready)

    def save(self, path: str | Path) -> None:
        """Write everything but the model to a file; the generation can go on, too.

        Raises:
            UserError: the disk is full, or the place cannot be written to.
        """
        ready = self._ready[:, self._given :]
        suspended = suspend.Suspended(self._seed, self._engine.filters, self._sequences, self._where(), ready)
        suspend.write(path, self._recurrent, suspended)

    def _begin(self, sequences: list[int], start: Start) -> None:
        self._sequences, self._token = sequences, start.token
        self._rows = padded_rows(len(sequences), self._engine.row_multiple)
        self._session = self._engine.begin(chosen_rows(start.state, self._rows))
        self._uniforms = Uniforms(self._seed, sequences, start.state.position.tolist())
        self._start: Start | None = start  # kept until the first step is done

    def _where(self) -> Start:
        return Start(self._token, chosen_rows(self._session.state(), torch.arange(len(self))))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._sequences)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone (at least one), in this order; the others cost nothing any more."""
        chosen = torch.tensor(rows)
        start = self._where().rows(chosen)
        self._ready, self._given = chosen_rows(self._ready, chosen)[:, self._given :], 0
        self._begin([self._sequences[row] for row in rows], start)

    def chunks(self, count: int) -> Iterator[Tensor]:
        """The next `count` tokens of all rows, on the model's device: (n, S) at a time.

        No more steps are taken than `count` needs.
        """
        while count > 0:
            part = self._waiting(count)
            self._ready, self._given = self._ready[:, self._given + part.shape[1] :], 0
            count -= part.shape[1]
            yield part

    def stream(self, count: int = ENDLESS) -> Iterator[Tensor]:
        """The next `count` tokens of all rows, (n,) for each position."""
        while count > 0:
            waiting, ready = self._waiting(count), self._ready
            for token in waiting.unbind(1):
                self._given += 1
                count -= 1
                yield token
                if self._ready is not ready:  # the reader has kept some rows only, or read on in another way
                    break

    def _waiting(self, count: int) -> Tensor:
        """Tokens drawn and not handed out, (n, 1 .. count): new ones where there is none."""
        if self._given == self._ready.shape[1]:
            self._draw(min(self._pace.steps, count))
        return self._ready[:, self._given : self._given + min(count, self._ready.shape[1])]

    def _draw(self, steps: int) -> None:
        """Draw that many tokens; interrupted, all or none of them."""
        begin = time.perf_counter()
        u, token = self._uniforms.peek(steps)[self._rows], chosen_rows(self._token, self._rows)
        try:
            # In its first step an engine may compile: so long Ctrl-C cannot wait.
            drawn = self._session.advance(token, u) if self._start else None
            with interrupts_held():
                drawn = self._session.advance(token, u) if drawn is None else drawn
                self._ready, self._given = drawn[: len(self)], 0
                self._token = self._ready[:, -1].clone()
                self._uniforms.skip(steps)
                self._start = None
        except BaseException:
            if self._start:
                self._begin(self._sequences, self._start)
            raise
        synchronise(drawn.device)
        self._pace.took(steps, time.perf_counter() - begin)


def engine_of(engine: str | Engine, recurrent: RecurrentModel, filters: Filters | None, tokens: int) -> Engine:
    """Make the engine of that name, for so many tokens in all; an engine, which has its filters, is itself.

    Raises:
        UserError: there is no engine of this name, or the engine that is given has other filters.
    """
    if isinstance(engine, str):
        return make_engine(engine, recurrent, KEEP_ALL if filters is None else filters, tokens)
    if filters is not None and filters != engine.filters:
        raise UserError(f"the engine was made with {engine.filters}, not with {filters}; leave one of them out")
    return engine
