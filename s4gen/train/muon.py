"""Muon: an optimiser for matrices that makes its momentum orthogonal before it is applied.

Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the step sizes of arXiv 2502.16982. The
update is that of `torch.optim.Muon` with adjust_lr_fn = "match_rms_adamw", with two differences:

- The iteration runs in bfloat16 only if the caller asks for it. It takes half the time of float32 on a CPU with
  instructions for bfloat16, and many times as long on one without.
- Matrices of one shape are made orthogonal together, because small models have many small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the iteration in `orthogonal`, as in Jordan's Muon."""
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""An orthogonal (m, n) matrix times 0.2 sqrt(max(m, n)) has about the size of AdamW's update at the same rate."""


class Muon(torch.optim.Optimizer):
    """The optimiser. It takes matrices only; all other parameters need another one beside it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take the parameters, which are matrices.

        Args:
            params: parameters, or groups of them, as for any optimiser of torch.
            lr: learning rate, on the scale of AdamW's.
            weight_decay: decoupled; a step takes lr * weight_decay of each weight away.
            momentum: decay of the running mean of the gradients, 0 to 1.
            dtype: precision of the iteration that makes matrices orthogonal; the momentum is always float32.

        Raises:
            ValueError: a parameter is not a matrix.
        """
        self._dtype = dtype
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})  # type: ignore[arg-type]
        if any(parameter.ndim != 2 for group in self.param_groups for parameter in group["params"]):
            raise ValueError("Muon takes matrices only")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; a parameter without one stays as it is."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(self._shape(parameter), []).append(parameter)
            for shape, parameters in by_shape.items():
                smoothed = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                updates = self._orthogonal(smoothed, shape)
                size = group["lr"] * RMS_OF_ADAMW * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-size)

    def _shape(self, parameter: Tensor) -> torch.Size:
        """Return the shape of the whole matrix; a subclass for many ranks holds only some rows of it."""
        return parameter.shape

    def _orthogonal(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        """Make matrices r(n, a, b) orthogonal, where (a, b) is their whole `shape`."""
        return orthogonal(matrices, self._dtype)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Update and return Nesterov's momentum, the running mean of the gradients one step ahead, in float32."""
        assert parameter.grad is not None
        gradient, state = parameter.grad.float(), self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return roughly the nearest orthogonal matrices: r(n, a, b) -> r(n, a, b), singular values about 1, in `dtype`.

    These are a few steps of a Newton-Schulz iteration, X <- a X + b (X X^T) X + c (X X^T)^2 X. Its coefficients are
    chosen to bring small singular values up fast; they end between 0.7 and 1.2.
    """
    tall = matrices.shape[1] > matrices.shape[2]  # transpose tall matrices, so that X X^T is the smaller product
    x = matrices.mT if tall else matrices
    # The iteration converges only from singular values of at most 1, which the norm of all entries bounds.
    x = (x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
