"""The definition: dense matrices and a loop, in float64. Never optimised; everything fast is compared with it."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_system(Lambda: Tensor, P: Tensor | None, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Full A c(2n, 2n), B c(2n), C c(2n) of one head from Lambda c(n), P c(R, n) or None, B c(n), C c(n)."""
    Lambda, B, C = (torch.cat((v, v.conj()), -1).to(torch.complex128) for v in (Lambda, B, C))
    A = torch.diag(Lambda)
    if P is not None:
        P = torch.cat((P, P.conj()), -1).to(torch.complex128)
        A = A - torch.einsum("ri,rj->ij", P, P.conj())
    return A, B, C


def discretize(A: Tensor, B: Tensor, dt: float, method: str) -> tuple[Tensor, Tensor]:
    """Abar and Bbar of a dense system: zoh by the matrix exponential, bilinear by a linear solve."""
    identity = torch.eye(A.shape[0], dtype=A.dtype)
    if method == "zoh":
        # exp of [[A, B], [0, 0]] dt holds Abar and the integral of exp(A s) B in one matrix; no inverse of A.
        block = torch.zeros(A.shape[0] + 1, A.shape[0] + 1, dtype=A.dtype)
        block[:-1, :-1], block[:-1, -1] = A * dt, B * dt
        e = torch.linalg.matrix_exp(block)
        return e[:-1, :-1], e[:-1, -1]
    if method == "bilinear":
        left = identity - dt / 2 * A
        return torch.linalg.solve(left, identity + dt / 2 * A), torch.linalg.solve(left, dt * B)
    raise ValueError(f"unknown discretization {method!r}: expected 'zoh' or 'bilinear'")


def scan(A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x_k = Abar x_(k-1) + Bbar u_k, y_k = Re(C x_k) for u r(L); returns y r(L) and the last full state c(2n)."""
    x = torch.zeros_like(B_bar) if x is None else x
    y = []
    for u_k in u:
        x = A_bar @ x + B_bar * u_k
        y.append((C @ x).real)
    return torch.stack(y), x


def kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    """K[l] = C Abar^l Bbar, r(L): the response to a unit impulse."""
    impulse = torch.zeros(L, dtype=torch.float64)
    impulse[0] = 1
    return scan(A_bar, B_bar, C, impulse)[0]
