"""A model whose parts run at different rates, as several plain models: none of their steps looks at the position.

For engines that record steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from s4gen.models.density import DensityModel, ModelState
from s4gen.models.pixels import PixelModel
from s4gen.models.sashimi import Sashimi, SashimiState
from s4gen.sampling.convert import RecurrentModel


class Levels:
    """The models of one model, by how many of the coarser levels are due; of a model of one level, itself alone.

    Of whole pixels there is one for steps that begin no pixel, and one for those that do.
    """

    def __init__(self, recurrent: RecurrentModel) -> None:
        self._due = _due_of(recurrent.stepper)
        if isinstance(recurrent.stepper, PixelModel):
            every = (True,) if self._due is None else (False, True)
            self.models: list[RecurrentModel] = [_Pixels(recurrent, due) for due in every]
        else:
            stack = _stack_of(recurrent.stepper)
            n_coarser = 0 if stack is None else _coarser(stack)
            self.models = [_at_due(recurrent, due) for due in range(n_coarser + 1)] if n_coarser else [recurrent]

    def due(self, position: Tensor) -> int:
        """The number of the model that takes the step at position int64 (B,), the tokens that were fed before."""
        return 0 if self._due is None else max(map(self._due, set(position.tolist())), default=0)


def _due_of(model: DensityModel) -> Callable[[int], int] | None:
    """How many parts are due at a position, apart from those that always are; None: there are no others."""
    if isinstance(model, PixelModel):
        return None if model.channels == 1 else lambda position: int(position % model.channels == 0)
    stack = _stack_of(model)
    return None if stack is None else stack.due


def _stack_of(model: DensityModel) -> Sashimi | None:
    return next((block for block in model.blocks if isinstance(block, Sashimi)), None)


class _Pixels(RecurrentModel):
    """A model of whole pixels in those steps in which one begins in some row, or in none."""

    def __init__(self, recurrent: RecurrentModel, due: bool) -> None:
        super().__init__(recurrent.source, recurrent.stepper)
        self._due = due

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        assert isinstance(self.stepper, PixelModel)
        return self.stepper.step_due(token, state, self._due)


class _AtDue(nn.Module):
    """A stack in those steps in which no row has more than `due` coarser levels to run."""

    def __init__(self, stack: Sashimi, due: int) -> None:
        super().__init__()
        self.stack, self.due = stack, due

    def step(self, x: Tensor, state: SashimiState) -> tuple[Tensor, SashimiState]:
        return self.stack.step_levels(x, state, self.due)


def _coarser(stack: Sashimi) -> int:
    return 0 if stack.inner is None else 1 + _coarser(stack.inner)


def _at_due(recurrent: RecurrentModel, due: int) -> RecurrentModel:
    """The same model for these steps alone, around the same tensors."""
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*recurrent.parameters(), *recurrent.buffers())}
    stepper: DensityModel = copy.deepcopy(recurrent.stepper, known)
    stepper.blocks = nn.ModuleList(_AtDue(stack, due) for stack in stepper.blocks if isinstance(stack, Sashimi))
    return RecurrentModel(recurrent.source, stepper)
