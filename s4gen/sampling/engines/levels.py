"""A model whose parts run at different rates, as several plain models, one for each choice of parts that are due.

Engines that record steps need this. A recorded step cannot branch, so it must not look at the position.
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
    """The plain models that a model consists of, and the choice between them.

    For a multi-scale stack, model number i runs its i first coarser levels. For a model of whole pixels, number 0 takes
    the steps that begin no pixel, and number 1 those that do. Any other model is the only one itself.
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
        """Return the number of the model that takes the step at position int64 (B,), the tokens fed before it."""
        return 0 if self._due is None else max(map(self._due, set(position.tolist())), default=0)


def _due_of(model: DensityModel) -> Callable[[int], int] | None:
    """Return the function that says how many optional parts are due at a position; None if there are no such parts."""
    if isinstance(model, PixelModel):
        return None if model.channels == 1 else lambda position: int(position % model.channels == 0)
    stack = _stack_of(model)
    return None if stack is None else stack.due


def _stack_of(model: DensityModel) -> Sashimi | None:
    return next((block for block in model.blocks if isinstance(block, Sashimi)), None)


class _Pixels(RecurrentModel):
    """A model of whole pixels in those steps in which a pixel begins in some row (`due`), or in none."""

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
    """Return the model for these steps alone, built around the same tensors, so that weights are held only once."""
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*recurrent.parameters(), *recurrent.buffers())}
    stepper: DensityModel = copy.deepcopy(recurrent.stepper, known)
    stepper.blocks = nn.ModuleList(_AtDue(stack, due) for stack in stepper.blocks if isinstance(stack, Sashimi))
    return RecurrentModel(recurrent.source, stepper)
