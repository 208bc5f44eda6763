"""A multi-scale model as several plain ones, none of whose steps looks at the place: for engines that record steps."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from s4gen.models.density import DensityModel
from s4gen.models.sashimi import Sashimi, SashimiState
from s4gen.sampling.convert import RecurrentModel


class Levels:
    """The models of one model, by how many of the coarser levels are due; of a model of one level, itself alone."""

    def __init__(self, recurrent: RecurrentModel) -> None:
        self._stack = next((block for block in recurrent.stepper.blocks if isinstance(block, Sashimi)), None)
        n_coarser = 0 if self._stack is None else _coarser(self._stack)
        self.models = [_at_due(recurrent, due) for due in range(n_coarser + 1)] if n_coarser else [recurrent]

    def due(self, place: Tensor) -> int:
        """The number of the model that takes the step at place int64 (B,), the tokens that were fed before."""
        return 0 if self._stack is None else max(map(self._stack.due, set(place.tolist())), default=0)


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
