"""The eager engine's step, filters and draw as one graph, compiled by torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import Filters


class CompiledEngine:
    """Starts slowly (10 to 35 s for each new number of rows, a few where the compiler's cache has it), then runs fast.

    Where compilation fails (no C++ compiler, say) it says so in one line on standard error, becomes "eager" by name
    and runs eagerly.
    """

    pays_from_tokens = 250_000
    """From here on the time won exceeds about 20 s of compilation: measured on two cores, 6 layers, d_model 128, batch
    64, where a step takes 9 ms eagerly and 4 ms compiled. (Batch 4 would need four times as many steps.)"""

    def __init__(self, recurrent: RecurrentModel, filters: Filters) -> None:
        self._eager = EagerEngine(recurrent, filters)
        self._step = torch.compile(self._eager.step, dynamic=False, fullgraph=True)
        self._advance = torch.compile(self._eager.advance, dynamic=False, fullgraph=True)
        self.name = "compiled"

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        return self._run(self._step, self._eager.step, token, state)

    def advance(self, token: Tensor, state: ModelState, u: Tensor) -> tuple[Tensor, ModelState]:
        return self._run(self._advance, self._eager.advance, token, state, u)

    def _run(self, compiled: Callable[..., Any], eager: Callable[..., Any], *args: Any) -> tuple[Tensor, ModelState]:
        if self.name == "compiled":
            try:
                return compiled(*args)
            except Exception as error:  # the compiler's errors have no common type
                reason = str(error).strip().split("\n")[0]
        result = eager(*args)  # an error that was not the compiler's is raised again here, as itself
        if self.name == "compiled":
            self.name = "eager"
            print(f"s4gen: torch.compile failed, going on with the eager engine ({reason})", file=sys.stderr)
        return result
