"""Memory for time: what the backward pass makes again instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[..., tuple[Tensor, ...]]
TOGETHER = 2**18
"""Numbers in the largest tensor of all heads that are worked on together: 1 MB in float32."""


class _Recomputed(torch.autograd.Function):
    """A function of which only the inputs are saved; `torch.utils.checkpoint` would import all of the compiler."""

    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
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
    """function(*inputs), which the backward pass computes once more; differentiable once.

    `function` depends on nothing but its inputs, and is run without autocast both times. A compiler decides by itself
    what to keep, so a graph that is being compiled gets the function as it is.
    """
    if torch.compiler.is_compiling():
        return function(*inputs)
    outputs: tuple[Tensor, ...] = _Recomputed.apply(function, *inputs)
    return outputs


def recomputed_by_heads(function: Function, numbers: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """`recomputed` for a few heads (first axis of all inputs and outputs) at a time.

    `numbers` is how many each head has in its largest tensor, twice as many in float64. So what is made on the way
    does not grow with the number of heads. On a GPU, which would be left idle, and in a graph that is being compiled,
    which would be as many times as large, all heads go together.
    """
    if inputs[0].device.type != "cpu" or torch.compiler.is_compiling():
        return recomputed(function, *inputs)
    together = max(1, TOGETHER // numbers)
    parts = [recomputed(function, *tile) for tile in zip(*(x.split(together) for x in inputs), strict=True)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
