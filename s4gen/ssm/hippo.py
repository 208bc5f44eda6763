"""HiPPO-LegS and the initial values of S4 and S4D (float64).

Sources: HiPPO (arXiv 2008.07669), S4 (2111.00396, theorem 1 and appendix C), S4D (2206.11893, section 4).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def legs(N: int) -> tuple[Tensor, Tensor]:
    """HiPPO-LegS: A r(N, N) and B r(N), float64.

    A[n,k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above; B[n] = sqrt(2n+1).
    """
    q = torch.arange(N, dtype=torch.float64)
    r = torch.sqrt(2 * q + 1)
    A = -torch.tril(r[:, None] * r[None, :], diagonal=-1) - torch.diag(q + 1)
    return A, r


def legs_low_rank(N: int) -> Tensor:
    """P r(1, N) with A + P^T P = -I/2 + skew: P[n] = sqrt(n + 1/2)."""
    return torch.sqrt(torch.arange(N, dtype=torch.float64) + 0.5)[None, :]


def nplr_legs(N: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal plus low rank form of HiPPO-LegS, diagonalised: Lambda c(n), P c(1, n), B c(n); complex128.

    A + P^T P = -I/2 + S with S skew-symmetric, so V comes from the Hermitian matrix -iS: V is unitary and the
    change of basis loses nothing (S4, theorem 1). The conjugate half with negative imaginary parts is kept.
    Raises ValueError for odd N: eigenvalues come in pairs.
    """
    if N <= 0 or N % 2:
        raise ValueError(f"state size N must be even and positive, got {N}: eigenvalues are stored as conjugate pairs")
    A, B = legs(N)
    P = legs_low_rank(N)
    S = A + P.T @ P
    S = (S - S.T) / 2
    frequencies, V = np.linalg.eigh(-1j * S.numpy())  # ascending: the first half is the negative one
    n = N // 2
    half = torch.from_numpy(V[:, :n].copy())
    Lambda = torch.complex(torch.full((n,), -0.5, dtype=torch.float64), torch.from_numpy(frequencies[:n].copy()))
    to_basis = half.conj().T  # rows: eigenvectors^*
    return Lambda, (to_basis @ P.T.to(torch.complex128)).T.contiguous(), to_basis @ B.to(torch.complex128)


def s4d_lin(N: int) -> tuple[Tensor, Tensor]:
    """S4D-Lin: Lambda_n = -1/2 - i pi n, B = 1 (S4D eq. 10)."""
    n = torch.arange(N // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), -torch.pi * n), torch.ones(N // 2, dtype=torch.complex128)


def s4d_inv(N: int) -> tuple[Tensor, Tensor]:
    """S4D-Inv: Lambda_n = -1/2 - i (N/pi) (N/(2n+1) - 1), B = 1 (S4D eq. 9)."""
    n = torch.arange(N // 2, dtype=torch.float64)
    imag = N / torch.pi * (N / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), -imag), torch.ones(N // 2, dtype=torch.complex128)


def s4d_legs(N: int) -> tuple[Tensor, Tensor]:
    """S4D-LegS: the normal part of HiPPO-LegS without its low-rank correction, B from HiPPO (S4D eq. 8)."""
    Lambda, _, B = nplr_legs(N)
    return Lambda, B


S4D_INITS: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "legs": s4d_legs,
    "lin": s4d_lin,
    "inv": s4d_inv,
}


def log_uniform_dt(H: int, dt_min: float, dt_max: float) -> Tensor:
    """Step sizes r(H), log-uniform between dt_min and dt_max, drawn from torch's global generator."""
    u = torch.rand(H, dtype=torch.float64)
    return torch.exp(u * (np.log(dt_max) - np.log(dt_min)) + np.log(dt_min))
