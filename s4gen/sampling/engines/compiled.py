"""The compiled engine: the eager engine's step as one graph by torch.compile, which on a GPU runs in a CUDA graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.models.states import chosen_rows, leaves, padded_rows
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.eager import EagerSession, EagerStep
from s4gen.sampling.engines.graphed import GraphedSession, in_place
from s4gen.sampling.engines.levels import Levels
from s4gen.sampling.filters import Filters
from s4gen.sampling.repetition import with_seen

_MOST_PADDING = 4
"""A session makes do with a step that is compiled for up to this many times its rows."""


class CompiledEngine:
    """An engine that starts slowly and then runs fast.

    Compilation takes 10 to 35 s for each new number of rows, or a few seconds if the compiler has it in its cache. A
    session that has fewer rows than a compiled step, but at least a quarter as many, is padded to that number. The step
    of a multi-scale model is compiled once for each number of coarser levels that may be due; the step of a model of
    whole pixels is compiled once for steps that begin a pixel and once for all others.

    If compilation fails, for want of a C++ compiler for example, one line on standard error says so, and from then on
    the engine runs eagerly under the name "eager".
    """

    row_multiple = 4
    pays_from_tokens = 250_000
    """From this many tokens on, compiling earns back its time of about 20 s. Measured on two cores, 6 layers, d_model
    128 and batch 64, where a step takes 9 ms eagerly and 4 ms compiled; batch 4 would need four times as many steps."""

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self.name, self.filters, self._vocab = "compiled", filters, recurrent.config.layout.vocab
        levels = Levels(recurrent)
        self.due = levels.due
        steps = [EagerStep(model, filters) for model in levels.models]
        self._feed = [self._compiled(step.feed) for step in steps]
        self._advance = [self._compiled(step.advance) for step in steps]
        self.advances_in_place = [self._compiled(in_place(step.advance)) for step in steps]
        self._sizes: set[int] = set()

    def feed(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """See `PureStep`."""
        return self._feed[self.due(state.position)](token, state)

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """See `PureStep`."""
        return self._advance[self.due(state.position)](token, state, u)

    def begin(self, state: ModelState) -> CompiledSession | EagerSession:
        """See `Engine`."""
        state = with_seen(state, self._vocab) if self.filters.remembers else state
        # A state that grows, as the cache of attention does, also holds a number, and for each value of it the step
        # would be compiled anew.
        if not all(isinstance(leaf, Tensor) for leaf in leaves(state)):
            self._give_up("the state of attention grows with every step")
            return EagerSession(self, state)
        rows = len(state.position)
        size = min((size for size in self._sizes if rows <= size <= _MOST_PADDING * rows), default=rows)
        self._sizes.add(size)
        return CompiledSession(self, state, size)

    def _compiled(self, eager: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that runs `eager` compiled, or as it is once compiling has failed."""
        compiled = torch.compile(eager, dynamic=False, fullgraph=True)

        def run(*args: Any) -> Any:
            if self.name == "compiled":
                try:
                    return compiled(*args)
                except Exception as error:  # the compiler's errors have no common type
                    reason = str(error).strip().split("\n")[0]
            result = eager(*args)  # an error that is not the compiler's is raised here again, as itself
            if self.name == "compiled":
                self._give_up(reason)
            return result

        return run

    def _give_up(self, reason: str) -> None:
        if self.name == "compiled":
            self.name = "eager"
            print(f"s4gen: torch.compile failed, going on with the eager engine ({reason})", file=sys.stderr)


class CompiledSession:
    """A session of the compiled step, padded to the number of rows that the step is compiled for."""

    def __init__(self, engine: CompiledEngine, state: ModelState, size: int) -> None:
        rows = len(state.position)
        self._padded, self._own = padded_rows(rows, size), torch.arange(rows)
        state = chosen_rows(state, self._padded)
        on_gpu = state.position.device.type == "cuda"
        self._session = GraphedSession(engine, state) if on_gpu else EagerSession(engine, state)

    def feed(self, token: Tensor) -> Tensor:
        return self._session.feed(chosen_rows(token, self._padded))[: len(self._own)]

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        return self._session.advance(chosen_rows(token, self._padded), u[self._padded])[: len(self._own)]

    def state(self) -> ModelState:
        return chosen_rows(self._session.state(), self._own)
