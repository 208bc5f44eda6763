"""Engines run a `RecurrentModel` one token at a time; which one is a matter of speed alone.

Every engine, teacher-forced, gives the log-probabilities of the parallel pass. The same seed gives the same samples
within an engine, in any batches.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from s4gen.compiling.compiler import NativeUnavailable
from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.progress import say_once
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import native
from s4gen.sampling.engines.compiled import CompiledEngine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import KEEP_ALL, Filters


class Session(Protocol):
    """Rows (sequences) under way in one engine; it owns and changes its state."""

    def feed(self, token: Tensor) -> Tensor:
        """Teacher forcing: token int64 (B,) -> logits of the next (B, V) float32, not filtered."""
        ...

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        """Feed, filter, draw, and again with what was drawn: token int64 (B,), u (B, S) -> tokens drawn int64 (B, S).

        u is float64 in [0, 1), on the CPU; column s is spent on token s. The last token drawn has not been fed.
        """
        ...

    def state(self) -> ModelState:
        """The state after what was fed so far: a copy, that later calls do not change."""
        ...


class Engine(Protocol):
    """A model, filters, and a way to run them."""

    name: str
    filters: Filters
    """What stands between the model's output and each draw."""
    row_multiple: int
    """Rows must be padded to a multiple of this for results that do not depend on the batch."""

    def begin(self, state: ModelState) -> Session:
        """A session that starts from `state`, which stays as it is. Rows may stand at different positions."""
        ...


def make_engine(name: str, recurrent: RecurrentModel, filters: Filters = KEEP_ALL, tokens: int = 0) -> Engine:
    """The engine of that name.

    "auto" is the native engine where there is a library or a compiler for it; else compiled, where `tokens` tokens in
    all earn the compilation back; else eager. With filters that the eager engine alone has, it is eager whatever the
    name. Where a native engine asked for by name is not available, one line on standard error says why, and the eager
    engine takes its place.

    Raises:
        UserError: there is no engine of this name, or S4GEN_TARGET names none that this processor runs.
    """
    if name not in ENGINES:
        raise UserError(f"there is no engine {name!r}; the engines are {', '.join(ENGINES)}")
    if filters.eager_only:
        return EagerEngine(recurrent, filters)
    reason: NativeUnavailable | None = None
    if name == "auto" or name.startswith("native"):
        try:
            return native.NativeEngine(recurrent, filters, name.partition("-")[2] or "fp32")
        except NativeUnavailable as error:
            reason = error
    pays = (
        name == "auto"
        and tokens >= CompiledEngine.pays_from_tokens
        and recurrent.config.model.traits.state != "growing"
    )
    engine = CompiledEngine(recurrent, filters) if name == "compiled" or pays else EagerEngine(recurrent, filters)
    # Nobody who left the choice open needs to hear of a model that the native engine is not made for.
    if reason is not None and (name != "auto" or not isinstance(reason, native.NotForThisModel)):
        say_once(f"s4gen: no native engine ({reason}), going on with the {engine.name} engine")
    return engine
