"""Engines run a `RecurrentModel` one token at a time; which one is a matter of speed alone.

Every engine, teacher-forced, gives the log-probabilities of the parallel pass.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.compiled import CompiledEngine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import KEEP_ALL, Filters

ENGINES = ("auto", "eager", "compiled")


class Engine(Protocol):
    """What sampling and benchmark need of an engine. States are those of `RecurrentModel`, in and out."""

    name: str

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """token (B,) int64 -> logits of the next one (B, V) float32, state after it."""
        ...

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        """`step`, then filters and draw: token (B,), u (B,) float64 in [0, 1) -> next token (B,) int64, state."""
        ...


def make_engine(name: str, recurrent: RecurrentModel, filters: Filters = KEEP_ALL, tokens: int = 0) -> Engine:
    """The engine of that name; "auto" is eager, or compiled where `tokens` tokens in all earn the compilation back."""
    if name not in ENGINES:
        raise UserError(f"there is no engine {name!r}; the engines are {', '.join(ENGINES)}")
    if name == "compiled" or (name == "auto" and tokens >= CompiledEngine.pays_from_tokens):
        return CompiledEngine(recurrent, filters)
    return EagerEngine(recurrent, filters)
