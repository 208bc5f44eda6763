"""Turning the state space layers of a model into step forms."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from s4gen.models.ssm_layers import SSMLayer

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def twins(model: M) -> tuple[M, M]:
    """Return two frozen copies of a model in evaluation mode: one for parallel passes, and one that only steps.

    In the second one a step form (Abar, Bbar, Cbar) stands in the place of every state space layer; all its other
    tensors are those of the first. Later changes of the model do not count.
    """
    source = copy.deepcopy(model).eval().requires_grad_(False)
    tensors = [*source.parameters(), *source.buffers()]
    # With every tensor in the memo, deepcopy makes new modules around the same tensors: weights are held only once.
    stepper = copy.deepcopy(source, {id(tensor): tensor for tensor in tensors})
    for name, layer in source.named_modules():
        if isinstance(layer, SSMLayer):
            stepper.set_submodule(name, layer.discretized())
    return source, stepper.eval()
