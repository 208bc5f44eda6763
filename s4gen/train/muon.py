"""Muon: momentum whose matrices are made orthogonal before they are applied.

Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the step sizes of arXiv 2502.16982. The
update is that of `torch.optim.Muon` with adjust_lr_fn = "match_rms_adamw", but for two things. The iteration runs in
bfloat16 only where the caller asks for it, because a CPU without instructions for bfloat16 is many times slower at it;
where there are some, the iteration takes half the time of float32. And matrices of one shape are made orthogonal
together, because small models have many small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""An orthogonal (m, n) matrix times 0.2 sqrt(max(m, n)) is about as large as what AdamW adds at the same rate."""


class Muon(torch.optim.Optimizer):
    """For matrices only; everything else needs another optimiser beside it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`weight_decay` is decoupled: a step takes lr * weight_decay of each weight away.

        `dtype` is the precision of the iteration that makes matrices orthogonal; momentum is float32 in any case.
        """
        self._dtype = dtype
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})  # type: ignore[arg-type]
        if any(parameter.ndim != 2 for group in self.param_groups for parameter in group["params"]):
            raise ValueError("Muon takes matrices only")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; parameters without one stay as they are."""
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
        """Return the shape of the whole matrix, of which an optimiser for many ranks may hold some rows."""
        return parameter.shape

    def _orthogonal(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        """Make matrices r(n, a, b) orthogonal; (a, b) is their `shape`."""
        return orthogonal(matrices, self._dtype)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the running mean of the gradients, looked at one step ahead; float32."""
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
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # The iteration converges only from singular values of at most 1, which the norm of all entries bounds.
    x = (x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
