"""Express one step of a converted model as a function of tensors alone, which is what every format exports."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.errors import UserError
from s4gen.models.density import DensityModel
from s4gen.models.pixels import PixelModel
from s4gen.models.sashimi import Sashimi, SashimiState
from s4gen.models.states import paths, rebuilt, tensors
from s4gen.sampling.convert import RecurrentModel

MOST_ROWS = 1 << 20
"""Largest number of rows that an exported step takes."""


class EveryLevel(nn.Module):
    """A multi-scale stack that runs all levels in every step and throws away the results of those that are not due.

    An exported program cannot branch on the position in the state. The price is that coarse levels run too often.
    """

    def __init__(self, stack: Sashimi) -> None:
        super().__init__()
        self.stack, self.levels = stack, _levels(stack)

    def step(self, x: Tensor, state: SashimiState) -> tuple[Tensor, SashimiState]:
        """Step x r(B, H) to y r(B, H), and return it with the new state."""
        return self.stack.step_levels(x, state, self.levels)


def _levels(stack: Sashimi) -> int:
    """Return how many levels lie below the finest one."""
    return 0 if stack.inner is None else 1 + _levels(stack.inner)


class Step(nn.Module):
    """One step as a module that can be exported.

    It maps a token int64 (B,) and the state's tensors to the log-probabilities of the next token r(B, V) and the new
    state's tensors.
    """

    def __init__(self, recurrent: RecurrentModel) -> None:
        """Take the step of a converted model.

        Raises:
            UserError: the model's state is no fixed set of tensors.
        """
        super().__init__()
        mixer = recurrent.config.model.traits
        if mixer.state != "fixed":  # it grows, or is written in place: then a step is no function of tensors
            raise UserError(
                f"a model with mixer {mixer.name} keeps a state that is no fixed set of tensors, so its step is not "
                "exported"
            )
        # The modules are replaced below, so they are copied; the tensors are not: `known` tells deepcopy to share them.
        known: dict[int, Any] = {id(tensor): tensor for tensor in (*recurrent.parameters(), *recurrent.buffers())}
        model: DensityModel = copy.deepcopy(recurrent.stepper, known)
        for name, module in list(model.named_modules()):
            # A coarser level is the `inner` of the one before, and runs as a part of it.
            if isinstance(module, Sashimi) and not name.endswith("inner"):
                model.set_submodule(name, EveryLevel(module))
        self.model = model.eval()
        self._template = recurrent.initial_state(1)
        self.names = [path for path, _ in paths(self._template)]
        """Names of the state's tensors, such as position and blocks.0, in the order of the arguments."""

    def initial(self, recurrent: RecurrentModel, rows: int) -> list[Tensor]:
        """Return the tensors of the state before the first token, in the order of `names`."""
        return tensors(recurrent.initial_state(rows))

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        before = rebuilt(self._template, iter(state))
        if isinstance(self.model, PixelModel):  # as if a pixel began in every step; what began in none is thrown away
            logits, new = self.model.step_due(token, before, True)
        else:
            logits, new = self.model.step(token, before)
        return logits.log_softmax(-1), *tensors(new)


@torch.no_grad()
def exported(recurrent: RecurrentModel) -> tuple[torch.export.ExportedProgram, Step, list[Tensor]]:
    """Export a model's step with torch.export.

    Return the program, which takes any number of rows, the `Step` that it was made of, and the initial state of one
    row.

    Raises:
        UserError: the model is not in float32, or has a part that cannot be exported.
    """
    if recurrent.source.dtype != torch.float32:
        raise UserError(
            f"the model is in {recurrent.source.dtype}, but only float32 is exported: convert it with model.float()"
        )
    step = Step(recurrent.cpu())
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    # Two rows in the example: torch.export takes a size of 1 for a constant.
    example = (torch.zeros(2, dtype=torch.int64), *step.initial(recurrent, 2))
    shapes = ({0: rows}, tuple({0: rows} for _ in example[1:]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns about its own internals
            program = torch.export.export(step, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export's errors have no common type
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"this model's step cannot be exported: {reason}") from None
    return program, step, step.initial(recurrent, 1)


def described(recurrent: RecurrentModel, step: Step, initial: Sequence[Tensor]) -> dict[str, Any]:
    """Return the contents of about.json: what is fed first, and name, shape, type and initial value of each tensor."""
    states = [
        {"name": name, "shape": list(x.shape[1:]), "type": str(x.dtype).removeprefix("torch."), "fill": _fill(x)}
        for name, x in zip(step.names, initial, strict=True)
    ]
    layout = recurrent.config.layout
    return {
        "start": recurrent.bos,
        "vocab": layout.vocab,
        "kind": layout.kind,
        "length": layout.length,
        "state": states,
    }


def _fill(x: Tensor) -> float:
    """Return the one number that fills an initial tensor.

    Raises:
        UserError: the tensor holds several numbers, which about.json has no words for.
    """
    values = x.flatten()
    if not (values == values[:1]).all():
        raise UserError("the model's initial state is not constant, so about.json cannot describe it")
    return float(values[0].item()) if values.numel() else 0.0
