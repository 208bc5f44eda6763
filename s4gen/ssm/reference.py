"""The definition of a state space model: dense matrices and a loop, in float64.

It is never optimised. Everything fast in this package is tested against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_system(Lambda: Tensor, P: Tensor | None, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return A c(2n, 2n), B c(2n) and C c(2n) of one head, with both members of every conjugate pair.

    They come from Lambda c(n), P c(R, n) or None, B c(n) and C c(n): A = diag(Lambda) - sum_r P_r P_r^*.
    """
    Lambda, B, C = (torch.cat((v, v.conj()), -1).to(torch.complex128) for v in (Lambda, B, C))
    A = torch.diag(Lambda)
    if P is not None:
        P = torch.cat((P, P.conj()), -1).to(torch.complex128)
        A = A - torch.einsum("ri,rj->ij", P, P.conj())
    return A, B, C


def discretize(A: Tensor, B: Tensor, dt: float, method: str) -> tuple[Tensor, Tensor]:
    """Return Abar and Bbar of a dense system by the method "zoh" or "bilinear".

    zoh:      Abar = exp(dt A),                         Bbar = A^-1 (exp(dt A) - I) B
    bilinear: Abar = (I - dt/2 A)^-1 (I + dt/2 A),      Bbar = (I - dt/2 A)^-1 dt B

    Raises:
        ValueError: the method is neither of the two.
    """
    identity = torch.eye(A.shape[0], dtype=A.dtype)
    if method == "zoh":
        # exp(dt [[A, B], [0, 0]]) holds both Abar and Bbar, so A need not be inverted; it may be singular.
        block = torch.zeros(A.shape[0] + 1, A.shape[0] + 1, dtype=A.dtype)
        block[:-1, :-1], block[:-1, -1] = A * dt, B * dt
        e = exponential(block)
        return e[:-1, :-1], e[:-1, -1]
    if method == "bilinear":
        left = identity - dt / 2 * A
        return torch.linalg.solve(left, identity + dt / 2 * A), torch.linalg.solve(left, dt * B)
    raise ValueError(f"unknown discretization {method!r}: expected 'zoh' or 'bilinear'")


def exponential(M: Tensor) -> Tensor:
    """Return exp(M) of a matrix, by its power series after scaling: exp(M) = exp(M / 2^k)^(2^k).

    `torch.linalg.matrix_exp` stops its series too early for matrices of small norm: an error of 1e-10 at a norm of 0.03.
    """
    squarings = max(0, 2 + math.frexp(torch.linalg.matrix_norm(M, 1).item())[1])
    scaled = M / 2**squarings  # norm below 1/2, for which 18 terms are exact to the last bit
    term = total = torch.eye(len(M), dtype=M.dtype)
    for k in range(1, 19):
        term = term @ scaled / k
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def scan(A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run the recurrence x_k = Abar x_(k-1) + Bbar u_k, y_k = Re(C x_k) over u r(L).

    It begins at x c(2n), None meaning zeros. Returns y r(L) and the last state c(2n).
    """
    x = torch.zeros_like(B_bar) if x is None else x
    y = []
    for u_k in u:
        x = A_bar @ x + B_bar * u_k
        y.append((C @ x).real)
    return torch.stack(y), x


def kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    """Return the kernel K[l] = C Abar^l Bbar, r(L), as the response to a unit impulse."""
    impulse = torch.zeros(L, dtype=torch.float64)
    impulse[0] = 1
    return scan(A_bar, B_bar, C, impulse)[0]
