"""One step of a converted model as a function of tensors alone: what is exported, whatever the format."""

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


class EveryLevel(nn.Module):
    """A multi-scale stack all of whose levels run in every step; what is not due is thrown away.

    So no branch depends on a value, at the price of running the coarse levels too often.
    """

    def __init__(self, stack: Sashimi) -> None:
        super().__init__()
        self.stack, self.levels = stack, _levels(stack)

    def step(self, x: Tensor, state: SashimiState) -> tuple[Tensor, SashimiState]:
        """x r(B, H) -> y r(B, H), new state."""
        return self.stack.step_levels(x, state, self.levels)


def _levels(stack: Sashimi) -> int:
    return 0 if stack.inner is None else 1 + _levels(stack.inner)


class Step(nn.Module):
    """The step: token int64 (B,), tensors of the state -> log-probabilities of the next token r(B, V), new tensors."""

    def __init__(self, recurrent: RecurrentModel) -> None:
        """Raises UserError for a model whose state is no fixed set of tensors."""
        super().__init__()
        mixer = recurrent.config.model.traits
        if mixer.state != "fixed":  # it grows, or is written in place: then a step is no function of tensors
            raise UserError(
                f"a model of {mixer.name} keeps a state that is no fixed set of tensors, so its step is not exported"
            )
        known: dict[int, Any] = {id(tensor): tensor for tensor in (*recurrent.parameters(), *recurrent.buffers())}
        model: DensityModel = copy.deepcopy(recurrent.stepper, known)
        for name, module in list(model.named_modules()):
            if isinstance(module, Sashimi) and not name.endswith("inner"):
                model.set_submodule(name, EveryLevel(module))
        self.model = model.eval()
        self._template = recurrent.initial_state(1)
        self.names = [path for path, _ in paths(self._template)]
        """Of the state's tensors: position, blocks.0, .."""

    def initial(self, recurrent: RecurrentModel, rows: int) -> list[Tensor]:
        """The tensors of the state before anything was fed, in the order of `names`."""
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
    """The step as an exported program for any number of rows, its names, and its initial state of one row.

    Raises:
        UserError: the model is in another precision than float32, or has a part that cannot be exported.
    """
    if recurrent.source.dtype != torch.float32:
        raise UserError(
            f"the model is in {recurrent.source.dtype}; what is exported is float32: convert it, model.float()"
        )
    step = Step(recurrent.cpu())
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    example = (torch.zeros(2, dtype=torch.int64), *step.initial(recurrent, 2))
    shapes = ({0: rows}, tuple({0: rows} for _ in example[1:]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(step, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # PyTorch's errors about it have no common type
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"this model's step cannot be exported: {reason}") from None
    return program, step, step.initial(recurrent, 1)


def described(recurrent: RecurrentModel, step: Step, initial: Sequence[Tensor]) -> dict[str, Any]:
    """What a program that runs the step has to know, as plain values."""
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
    """The number that an initial tensor is full of."""
    values = x.flatten()
    if not (values == values[:1]).all():
        raise UserError("the model's initial state is not constant, so a few words cannot describe it")
    return float(values[0].item()) if values.numel() else 0.0
