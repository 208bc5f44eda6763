"""Trade time for memory: functions whose intermediate results the backward pass computes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[..., tuple[Tensor, ...]]
TOGETHER = 2**18
"""How many numbers the largest tensor may hold when several heads are worked on together: 1 MB in float32."""


class _Recomputed(torch.autograd.Function):
    """Run a function and save nothing but its inputs.

    `torch.utils.checkpoint` does the same, but importing it imports all of torch's compiler.
    """

    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)  # unused outputs then cost no zeros
        with torch.autocast(inputs[0].device.type, enabled=False):
            return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(needed) for x, needed in zip(inputs, ctx.needs_input_grad[1:], strict=True)]
        with torch.autocast(inputs[0].device.type, enabled=False):
            with torch.enable_grad():
                outputs = ctx.function(*inputs)
            used = [y for y, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
            if used:
                torch.autograd.backward(used, [gradient for gradient in gradients if gradient is not None])
        return None, *(x.grad for x in inputs)


def recomputed(function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return function(*inputs); the backward pass computes it once more. It can be differentiated once.

    `function` must depend on nothing but its inputs, and runs without autocast both times. torch.compile decides by
    itself what to keep, so a graph that is being compiled gets the function as it is.
    """
    if torch.compiler.is_compiling():
        return function(*inputs)
    outputs: tuple[Tensor, ...] = _Recomputed.apply(function, *inputs)
    return outputs


def recomputed_by_heads(function: Function, numbers: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Apply `recomputed` to a few heads at a time; heads are the first axis of all inputs and outputs.

    So the memory for intermediate results does not grow with the number of heads. `numbers` is the size of the largest
    tensor of one head (twice that if it is float64). All heads go together on a GPU, which small pieces would leave
    idle, and in a graph that is being compiled, which would grow with the number of pieces.
    """
    if inputs[0].device.type != "cpu" or torch.compiler.is_compiling():
        return recomputed(function, *inputs)
    together = max(1, TOGETHER // numbers)
    parts = [recomputed(function, *tile) for tile in zip(*(x.split(together) for x in inputs), strict=True)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
