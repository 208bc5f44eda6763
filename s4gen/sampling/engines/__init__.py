"""Engines run a `RecurrentModel` one token at a time. The choice between them is a matter of speed alone.

Fed with given tokens, every engine computes the log-probabilities of the parallel pass. Within one engine a seed always
gives the same samples, however they are split into batches.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from s4gen.compiling.compiler import NativeUnavailable
from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import native
from s4gen.sampling.engines.compiled import CompiledEngine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.showing.progress import say_once


class Session(Protocol):
    """Rows (sequences) under way in one engine. A session owns its state and changes it in place."""

    def feed(self, token: Tensor) -> Tensor:
        """Feed token int64 (B,); return logits r(B, V) for the next one, to which no filter is applied."""
        ...

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        """Feed a token, filter, draw, and go on in the same way with the token drawn; return all S tokens drawn.

        token is int64 (B,); the result is int64 (B, S). u is float64 (B, S) in [0, 1), on the CPU; column s is spent on
        token s. The last token drawn is not fed; the next call has to begin with it.
        """
        ...

    def state(self) -> ModelState:
        """Return the state after all tokens fed so far, as a copy that later calls do not change."""
        ...


class Engine(Protocol):
    """A way to run a model's steps, together with the model and the filters."""

    name: str
    """One of ENGINES, but never auto."""
    filters: Filters
    """The filters between the model's output and each draw."""
    row_multiple: int
    """Rows must be padded to a multiple of this, so that results do not depend on the size of the batch."""

    def begin(self, state: ModelState) -> Session:
        """Return a session that starts from `state`, which is copied. Its rows may stand at different positions."""
        ...


def make_engine(name: str, recurrent: RecurrentModel, filters: Filters = KEEP_ALL, tokens: int = 0) -> Engine:
    """Make the engine of this name, which is one of ENGINES.

    "auto" is the native engine if there is a library or a compiler for it; else the compiled one, if drawing `tokens`
    tokens in all earns back the time of compilation; else the eager one. With filters that only the eager engine has,
    it is the eager one whatever the name. If a native engine that was asked for by name is not available, one line on
    standard error says why, and the eager engine takes its place.

    Raises:
        UserError: there is no engine of this name, or S4GEN_TARGET names a target that this processor cannot run.
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
    compiling_pays = (
        name == "auto"
        and tokens >= CompiledEngine.pays_from_tokens
        and recurrent.config.model.traits.state != "growing"
    )
    engine = (
        CompiledEngine(recurrent, filters) if name == "compiled" or compiling_pays else EagerEngine(recurrent, filters)
    )
    # With "auto", a missing compiler is reported, because it can be installed; a model that the native engine is not
    # made for is not, because nothing would help.
    if reason is not None and (name != "auto" or not isinstance(reason, native.NotForThisModel)):
        say_once(f"s4gen: no native engine ({reason}), going on with the {engine.name} engine")
    return engine
