"""Recover the true C of a layer that was saved with C~ = C (I - Abar^L) (arXiv 2111.00396, appendix C).

The reference folds the truncation of its kernel to L inputs into the parameter, so the stored values mean something
only together with L, A and dt. Our C is the output vector itself, which holds for sequences of any length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.ssm import dplr, transforms
from s4gen.ssm.krylov import doublings, power
from s4gen.ssm.realform import row, row_to_complex

TOLERANCE = 1e-6
"""Relative error of C up to which a model is imported."""
_HEADS = 64
"""Heads that are solved for at a time; their dense matrices, log2(L) powers of each, are in memory together."""


class Recovery(NamedTuple):
    """Measures of how well C could be recovered."""

    condition: float
    """Largest condition number of I - Abar^L over the heads."""
    error: float
    """Estimated relative error of C, the largest over the heads."""


def recovered(
    parameters: Mapping[str, Tensor], decay: str, dt_transform: str, length: int, name: str
) -> tuple[Tensor, Recovery]:
    """Solve C (I - Abar^L) = C~ and return C r(H, n, 2) in float64, with measures of its error.

    `parameters` are those of an S4 layer by our names, with C~ for L = `length` inputs in place of C. `decay` and
    `dt_transform` name the functions that make Lambda and dt of their parameters; `name` is the tensor in messages.
    Everything is float64 on the real form of the conjugate-complete state r(N).

    The error is estimated in two ways, and the larger one counts: C from two products for Abar^L that round
    differently, and the condition number times the rounding unit.

    Raises:
        UserError: the error exceeds `TOLERANCE`.
    """
    parts, conditions, errors = [], [], []
    for heads in range(0, len(parameters["C"]), _HEADS):
        A, C_trunc = _system(parameters, decay, dt_transform, slice(heads, heads + _HEADS))
        powers = doublings(A, length)
        whole = power(powers, length) if length > 1 else A
        first, condition = _solve(whole, C_trunc)
        # A third and two thirds of the length go through other products than the binary powers of the whole.
        cut = length // 3
        other = power(powers, cut) @ power(powers, length - cut) if cut else whole
        second, _ = _solve(other, C_trunc)
        size = first.abs().amax(-1)
        differs = ((first - second).abs().amax(-1) / size).nan_to_num(nan=torch.inf)  # a NaN would pass no comparison
        parts.append(torch.view_as_real(row_to_complex(first)))
        conditions.append(condition.max())
        errors.append(torch.maximum(differs, condition * torch.finfo(torch.float64).eps).max())
    found = Recovery(float(torch.stack(conditions).max()), float(torch.stack(errors).max()))
    if not found.error <= TOLERANCE:  # `not <=`, so that a NaN is refused, too
        raise UserError(
            f"{name} cannot be recovered: I - Abar^{length} has condition number {found.condition:.1e}, so that C "
            f"itself would be off by {found.error:.1e} of its size, where {TOLERANCE:g} is allowed"
        )
    return torch.cat(parts), found


def _system(parameters: Mapping[str, Tensor], decay: str, dt_transform: str, heads: slice) -> tuple[Tensor, Tensor]:
    """Return Abar r(h, N, N) and C~ r(h, N) for a slice of h heads."""
    H = len(parameters["D"])
    # Heads share the S distinct SSMs in turn: head i has number i mod S.
    index = torch.arange(H)[heads] % len(parameters["frequency"])
    real = -transforms.positive(parameters["raw_decay"].double(), decay)
    Lambda = torch.complex(real, parameters["frequency"].double())[index]
    B, P = (torch.view_as_complex(parameters[key].double()) for key in ("B", "P"))
    Q = torch.view_as_complex(parameters["Q"].double())[:, index] if "Q" in parameters else None
    C = torch.view_as_complex(parameters["C"].double())[heads]
    dt = transforms.positive(parameters["raw_dt"].double(), dt_transform)[heads]
    constants = dplr.exact_constants(Lambda, P[:, index], B[index], C, dt, Q)
    return dplr.dense_transition(constants), row(C)


def _solve(A_L: Tensor, C_trunc: Tensor) -> tuple[Tensor, Tensor]:
    """Return C r(h, N) with C (I - A^L) = C~, and the condition numbers r(h) of I - A^L."""
    matrix = torch.eye(A_L.shape[-1], dtype=A_L.dtype) - A_L
    condition = torch.linalg.cond(matrix).nan_to_num(nan=torch.inf)
    # A singular matrix must not raise here: its condition number refuses it later, in a message that names the tensor.
    solved, _ = torch.linalg.solve_ex(matrix.mT, C_trunc)
    return solved, condition
