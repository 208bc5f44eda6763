"""Generations: sequences being drawn, which can be thinned out, interrupted, saved to a file and continued."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.machine.timing import synchronise
from s4gen.models.states import chosen_rows, padded_rows
from s4gen.sampling import suspend
from s4gen.sampling.checkpoints import Checkpoints, Trail
from s4gen.sampling.chunking import Pace, interrupts_held
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.prompt_cache import PromptCache
from s4gen.sampling.prompts import Start, Starts, checked_prompt
from s4gen.sampling.randomness import Uniforms
from s4gen.showing.words import plural

ENDLESS = sys.maxsize
"""A number of tokens that is never reached."""
_VIEWS = 256
"""How many tokens of a row are made into tensors of their own at once."""


class Generation:
    """Sequences that are being drawn side by side, one in each row. Memory does not grow with the tokens drawn.

    The tokens of a row depend on the model, the engine, the filters, the seed, the number of its sequence, its prompt
    and its label. They do not depend on the other rows, nor on how many tokens are asked for at a time. A generation
    that was interrupted, by Ctrl-C for example, can be saved or continued, and no token is lost.

    Random number t of a sequence is spent on its position t, wherever it is drawn from. So a generation that went back
    draws the same tokens again, bit for bit, and so does a fork; a fork with another seed draws others.
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
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Begin at `start`, which has a row for each of `sequences`.

        `ready` int64 (n, K) are tokens that were drawn before that start. Only with `checkpoints` it is possible to
        `rewind`, up to the start.
        """
        self._recurrent, self._engine, self._seed = recurrent, engine, seed
        self._ready = start.token.new_empty(len(sequences), 0) if ready is None else ready
        self._given = 0  # how many tokens of `_ready` have been handed out
        self._drawn = 0  # how many tokens of each row were drawn behind the start, those that wait included
        self._trail = None if checkpoints is None else Trail(checkpoints, start)
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
        prompt_cache: PromptCache | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Generation:
        """Read the prompts and return the generation of sequences 0 .. n - 1 behind them.

        Args:
            recurrent: the converted model.
            n: how many sequences, at least 1.
            seed: 0 to 2^64 - 1.
            prompt: int64 (n, P); or (1, P) or (P,), the same for all, which is read only once.
            labels: the class of each sequence, int64 (n,), for a model that has classes; None makes them all 0.
            filters: temperature and the like. None means the filters of `engine`; if that is a name, it means none.
            engine: the name of an engine, or one that `make_engine` made.
            prompt_cache: where prompts that were read before are found, and new ones are kept.
            checkpoints: which states are kept on the way, so that `rewind` can go back to them; None: none.

        Raises:
            UserError: the engine is unknown or was made with other filters; or prompt or labels do not fit the model.
        """
        prompts = checked_prompt(recurrent, n, prompt, labels)
        runner = engine_of(engine, recurrent, filters, ENDLESS)
        start = Starts(recurrent, prompts, runner.filters, prompt_cache).of(range(n))
        return cls(recurrent, runner, seed=seed, sequences=range(n), start=start, checkpoints=checkpoints)

    @classmethod
    def load(
        cls,
        path: str | Path,
        recurrent: RecurrentModel,
        engine: str = "eager",
        checkpoints: Checkpoints | None = None,
    ) -> Generation:
        """Load a generation that `save` wrote. If its engine is the same as before, it continues bit for bit.

        The states that it had kept are not saved: with `checkpoints`, it can go back to where it was saved.

        Raises:
            UserError: there is no such file, it is damaged or of another model, or the engine is unknown.
        """
        seed, filters, sequences, start, ready = suspend.read(path, recurrent)
        runner = make_engine(engine, recurrent, filters, tokens=ENDLESS)
        return cls(recurrent, runner, seed=seed, sequences=sequences, start=start, ready=ready, checkpoints=checkpoints)

    def save(self, path: str | Path) -> None:
        """Write everything but the model to a file. The generation itself can still go on.

        Raises:
            UserError: the disk is full, or the file cannot be written.
        """
        ready = self._ready[:, self._given :]
        suspended = suspend.Suspended(self._seed, self._engine.filters, self._sequences, self._where(), ready)
        suspend.write(path, self._recurrent, suspended)

    def _begin(self, sequences: list[int], start: Start) -> None:
        self._sequences, self._token = sequences, start.token
        self._rows = padded_rows(len(sequences), self._engine.row_multiple)
        self._session = self._engine.begin(chosen_rows(start.state, self._rows))
        self._uniforms = Uniforms(self._seed, sequences, start.state.position.tolist())
        self._start: Start | None = start  # kept until the first step has succeeded: `_draw` begins again with it

    def _where(self) -> Start:
        """Return where the rows stand now, without the rows that only fill up the batch."""
        return Start(self._token, chosen_rows(self._session.state(), torch.arange(len(self))))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._sequences)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone (at least one), in this order; the others are no longer computed."""
        chosen = torch.tensor(rows)
        start = self._where().rows(chosen)
        self._trail = None if self._trail is None else self._trail.rows(chosen)
        self._ready, self._given = chosen_rows(self._ready, chosen)[:, self._given :], 0
        self._begin([self._sequences[row] for row in rows], start)

    def fork(self, seed: int | None = None) -> Generation:
        """Return a generation of the same rows that goes on from here by itself; each leaves the other as it is.

        With the same seed, which is the default, both draw the same tokens, and the fork can go back as far as this
        one. With another seed the tokens differ from here on, and the fork can go back to here.

        Raises:
            ValueError: the seed is another one, some tokens were drawn that were not handed out, as while a `stream`
                is read, and there are no checkpoints to draw fewer from.
            UserError: the seed is out of range.
        """
        ready = self._ready[:, self._given :].clone()
        if seed is None or seed == self._seed:
            fork = self._anew(self._seed, self._where(), ready)
            fork._drawn, fork._trail = self._drawn, None if self._trail is None else self._trail.up_to(self._drawn)
            return fork
        if not ready.shape[1]:
            return self._anew(seed, self._where())
        if self._trail is None or self._drawn < ready.shape[1]:
            raise ValueError(
                f"{ready.shape[1]} tokens are drawn already and not handed out, so no fork can draw others in their "
                "place: hand them out first, or start the generation with checkpoints"
            )
        return self._anew(seed, self._back_at(self._drawn - ready.shape[1])._where())

    def rewind(self, tokens: int) -> None:
        """Go back by so many tokens of those that were handed out: what is drawn next is what was drawn there.

        The last state that was kept before is taken, and what follows it is drawn again, which takes as long as it
        took. To draw something else from there, `fork` with another seed.

        Raises:
            ValueError: that is beyond the start, there are no checkpoints, or the number is negative.
        """
        if tokens < 0:
            raise ValueError(f"rewind({tokens}): expected a number of tokens to go back, at least 0")
        if tokens == 0:
            return
        if self._trail is None:
            raise ValueError(f"rewind({tokens}): no states were kept; start the generation with checkpoints")
        handed_out = self._drawn - (self._ready.shape[1] - self._given)
        if tokens > handed_out:
            behind = plural(max(0, handed_out), "token")
            raise ValueError(f"rewind({tokens}): beyond the start, behind which {behind} can be taken back")
        # Nothing of this generation changes before the tokens are drawn again: an interrupt leaves it where it is.
        back = self._back_at(handed_out - tokens)
        self._session, self._uniforms, self._rows = back._session, back._uniforms, back._rows
        self._token, self._start = back._token, back._start
        self._drawn, self._trail = handed_out - tokens, self._trail.up_to(handed_out - tokens)
        self._ready, self._given = self._ready[:, :0], 0

    def _back_at(self, drawn: int) -> Generation:
        """Return a generation that has drawn this many tokens behind the start, as this one had; it has kept none."""
        assert self._trail is not None
        place, start = self._trail.before(drawn)
        back = Generation(self._recurrent, self._engine, seed=self._seed, sequences=self._sequences, start=start)
        for _ in back.chunks(drawn - place):
            pass
        return back

    def _anew(self, seed: int, start: Start, ready: Tensor | None = None) -> Generation:
        """Return a generation of the same rows at another start."""
        rule = None if self._trail is None else self._trail.rule
        return Generation(
            self._recurrent,
            self._engine,
            seed=seed,
            sequences=self._sequences,
            start=start,
            ready=ready,
            checkpoints=rule,
        )

    def chunks(self, count: int) -> Iterator[Tensor]:
        """Yield the next `count` tokens of all rows, int64 (n, S) at a time, on the model's device.

        No more steps are taken than `count` needs.
        """
        while count > 0:
            part = self._waiting(count)
            self._ready, self._given = self._ready[:, self._given + part.shape[1] :], 0
            count -= part.shape[1]
            yield part

    def stream(self, count: int = ENDLESS) -> Iterator[Tensor]:
        """Yield the next `count` tokens of all rows, int64 (n,) for each position, on the model's device."""
        while count > 0:
            waiting, ready = self._waiting(count), self._ready
            for token in _columns(waiting):
                self._given += 1
                count -= 1
                yield token
                if self._ready is not ready:  # meanwhile the reader has called `keep`, or read on in another way
                    break

    def _waiting(self, count: int) -> Tensor:
        """Return 1 to `count` tokens of each row that are drawn and not handed out; draw new ones if there are none."""
        if self._given == self._ready.shape[1]:
            steps = min(self._pace.steps, count)
            self._draw(steps if self._trail is None else min(steps, self._trail.due(self._drawn)))
        return self._ready[:, self._given : self._given + min(count, self._ready.shape[1])]

    def _draw(self, steps: int) -> None:
        """Draw this many tokens for each row. If it is interrupted, it has drawn all of them or none."""
        begin = time.perf_counter()
        u, token = self._uniforms.peek(steps)[self._rows], chosen_rows(self._token, self._rows)
        try:
            # The first step may compile for seconds; do not hold Ctrl-C back that long. An interrupt may leave the
            # session half-way, so it is then begun anew below. In later steps Ctrl-C waits for the end of the chunk.
            drawn = self._session.advance(token, u) if self._start else None
            with interrupts_held():
                drawn = self._session.advance(token, u) if drawn is None else drawn
                self._ready, self._given = drawn[: len(self)], 0
                self._token = self._ready[:, -1].clone()
                self._uniforms.skip(steps)
                self._drawn += steps
                self._start = None
        except BaseException:
            if self._start:
                self._begin(self._sequences, self._start)
            raise
        synchronise(drawn.device)  # a GPU returns before it has finished, and would seem to be too fast
        self._pace.took(steps, time.perf_counter() - begin)
        if self._trail is not None:
            self._trail.pass_by(self._drawn, self._where)


def _columns(tokens: Tensor) -> Iterator[Tensor]:
    """Yield the columns of `tokens` (n, S), each of them (n,)."""
    # A view takes most of a kilobyte. All columns at once would take megabytes, and more the faster the machine is.
    for part in tokens.split(_VIEWS, dim=1):
        yield from part.unbind(1)


def engine_of(engine: str | Engine, recurrent: RecurrentModel, filters: Filters | None, tokens: int) -> Engine:
    """Return the engine to draw `tokens` tokens in all: the one given, or a new one of the given name.

    Raises:
        UserError: there is no engine of this name, or the engine that is given has other filters.
    """
    if isinstance(engine, str):
        return make_engine(engine, recurrent, KEEP_ALL if filters is None else filters, tokens)
    if filters is not None and filters != engine.filters:
        raise UserError(f"the engine was made with {engine.filters}, not with {filters}; leave one of them out")
    return engine
