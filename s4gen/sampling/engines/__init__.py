"""Engines run a `RecurrentModel` one token at a time; which one is a matter of speed alone.

Every engine, teacher-forced, gives the log-probabilities of the parallel pass. The same seed gives the same samples
within an engine, in any batches.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.progress import say_once
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.compiled import CompiledEngine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.flatten import NotFlatError, flatten


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
    row_multiple: int
    """Rows must be padded to a multiple of this for results that do not depend on the batch."""

    def begin(self, state: ModelState) -> Session:
        """A session that starts from `state`, which stays as it is. Rows may stand at different positions."""
        ...


def make_engine(name: str, recurrent: RecurrentModel, filters: Filters = KEEP_ALL, tokens: int = 0) -> Engine:
    """The engine of that name.

    "auto" is the native engine where there is a library or a compiler for it; else compiled, where `tokens` tokens in
    all earn the compilation back; else eager. Where a native engine asked for by name is not available, one line on
    standard error says why, and the eager engine takes its place.

    Raises:
        UserError: there is no engine of this name, or S4GEN_TARGET names none that this processor runs.
    """
    if name not in ENGINES:
        raise UserError(f"there is no engine {name!r}; the engines are {', '.join(ENGINES)}")
    pays = name == "auto" and tokens >= CompiledEngine.pays_from_tokens and recurrent.config.model.mixer != "attention"
    other = CompiledEngine(recurrent, filters) if name == "compiled" or pays else EagerEngine(recurrent, filters)
    if name.startswith("native") or (name == "auto" and _has_plan(recurrent)):
        from s4gen.sampling.engines.native import NativeEngine, NativeUnavailable

        try:
            return NativeEngine(recurrent, filters, name.partition("-")[2] or "fp32")
        except NativeUnavailable as error:
            say_once(f"s4gen: no native engine ({error}), going on with the {other.name} engine")
    return other


def _has_plan(recurrent: RecurrentModel) -> bool:
    """Whether the native engine is made for this model, given a compiler."""
    if recurrent.device.type != "cpu":
        return False
    try:
        flatten(recurrent)
    except NotFlatError:
        return False
    return True
