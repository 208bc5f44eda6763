"""Powers of diagonal plus low-rank matrices, and their Krylov vectors, without squaring any matrix.

Let A = D - sum_r p_r q_r with columns p_r and rows q_r. Then its powers are diagonal plus rank k R:

    A^k = D^k - F_k^T W_k      F_k: rows D^(k-1-i) p_r      W_k: rows q_r A^i      i = 0 .. k-1

So the first k vectors D^i p_r, q_r A^i, A^i B and C A^(i+1) ("chains") give A^k, and A^k applied to them gives the next
k vectors. This is cheaper than squaring matrices as long as k R is small beside N. It is also more exact in float32,
where squaring loses two digits if a mode is undamped: here the long memory of such a mode is in D^k, which is computed
in complex128.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s4gen.ssm.realform import column, diagonal_matrix, multiplier, multiply, transposed


class _Dense(NamedTuple):
    """The power A^k as a dense matrix."""

    matrix: Tensor  # r(H, N, N), acting on columns

    def of_columns(self, x: Tensor) -> Tensor:
        """Return A^k x for every row x of r(H, K, N)."""
        return x @ self.matrix.transpose(1, 2)

    def of_rows(self, y: Tensor) -> Tensor:
        """Return y A^k for every row y of r(H, K, N)."""
        return y @ self.matrix


class LowRank(NamedTuple):
    """The power A^k by its parts D^k, F_k and W_k. Rows of F and W are ordered by i first, then by r."""

    diagonal: Tensor  # r(2, H, N), as `realform.multiplier`: D^k
    left: Tensor  # F r(H, kR, N)
    right: Tensor  # W r(H, kR, N)

    def dense(self) -> Tensor:
        """Return the matrix r(H, N, N), which acts on columns."""
        return diagonal_matrix(self.diagonal) - self.left.transpose(1, 2) @ self.right

    def of_columns(self, x: Tensor) -> Tensor:
        """Return A^k x for every row x of r(H, K, N)."""
        return multiply(self.diagonal[:, :, None], x) - (x @ self.right.transpose(1, 2)) @ self.left

    def of_rows(self, y: Tensor) -> Tensor:
        """Return y A^k for every row y of r(H, K, N)."""
        return multiply(transposed(self.diagonal)[:, :, None], y) - (y @ self.left.transpose(1, 2)) @ self.right


class Chains(NamedTuple):
    """The first T vectors of every chain, as rows."""

    log_diagonal: Tensor  # log D c(H, n)
    left: Tensor  # F_T r(H, TR, N)
    right: Tensor  # W_T r(H, TR, N)
    inputs: Tensor  # r(H, T, N): A^i B
    outputs: Tensor  # r(H, T, N): C A^(i+1)

    def power(self, k: int) -> LowRank:
        """Return A^k for 1 <= k <= T."""
        T = self.inputs.shape[1]
        rank = self.left.shape[1] // T
        D_k = _power_of_diagonal(self.log_diagonal, k, self.left.dtype)
        return LowRank(D_k, self.left[:, (T - k) * rank :], self.right[:, : k * rank])


def chains(log_D: Tensor, p: Tensor, q: Tensor, B_bar: Tensor, C_bar: Tensor, T: int) -> Chains:
    """Compute T vectors of every chain by doubling, in the precision of C_bar.

    log_D is c(H, n) in complex128; p and q are r(H, R, N), B_bar and C_bar r(H, N), in any precision.
    """
    dtype, (rank, N) = C_bar.dtype, p.shape[1:]
    first = LowRank(_power_of_diagonal(log_D, 1, dtype), p.to(dtype), q.to(dtype))
    known = Chains(log_D, first.left, first.right, B_bar[:, None].to(dtype), first.of_rows(C_bar[:, None]))
    while (k := known.inputs.shape[1]) < T:
        more = min(k, T - k)
        power = known.power(k)
        # Beyond this rank the dense matrix is the cheaper one; measured.
        step = power if 2 * k * rank < N else _Dense(power.dense())
        known = Chains(
            log_D,
            torch.cat((multiply(power.diagonal[:, :, None], known.left[:, (k - more) * rank :]), known.left), dim=1),
            torch.cat((known.right, step.of_rows(known.right[:, : more * rank])), dim=1),
            torch.cat((known.inputs, step.of_columns(known.inputs[:, :more])), dim=1),
            torch.cat((known.outputs, step.of_rows(known.outputs[:, :more])), dim=1),
        )
    return known


def _power_of_diagonal(log_D: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """Return D^k as `realform.multiplier`. It comes from log D, so it is exact for any k."""
    return multiplier(column(torch.exp(k * log_D))).to(dtype)
