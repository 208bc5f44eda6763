"""HiPPO: linear systems dx/dt = A x + B u whose state is the coefficients of the past u in a basis (float64).

Writing a = t - s for the age of an input, each measure keeps x_n(t) of the form  integral w(a) g_n(a) u(t - a) da,
and the past is read back as  u(t - a) ~ sum_n x_n(t) g_n(a):

    measure    g_n(a)                                 where                       normal part
    legs       sqrt(2n+1) P_n(1 - 2a)                 a: the age as a share of t  -1/2, rank 1
    legt       sqrt(2n+1) P_n(1 - a)                  the window 0 <= a <= 2      0, rank 2
    lagt       exp(-a/2) L_n(a)                       a >= 0                      0, rank 1
    fourier    1, 0, sqrt(2) cos(pi m a), sqrt(2) sin(pi m a), m = 1 .. N/2 - 1
                                                      the window 0 <= a <= 2      0, rank 1

P_n Legendre, L_n Laguerre polynomials. For legs and lagt the state is exactly that; for the windows of legt and fourier
up to what leaves the window, which A takes from the state's own reading of it. The theorem of legs is about dx/dt =
(A x + B u) / t: A acts in the logarithm of time. Used as it stands, dx/dt = A x + B u, it keeps all of the past through
a warped basis, g_n(1 - exp(-a)). legt and fourier ("FouT") have a window of 2, hence half of the matrices that papers
give for a window of 1. The second function of fourier is sin(0) = 0, kept so that sines and cosines pair up.

Sources: HiPPO (arXiv 2008.07669, appendix D), S4 (2111.00396, theorem 1 and appendix C), How to Train Your HiPPO
(2206.12037, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import laguerre, legendre
from torch import Tensor


class Measure(NamedTuple):
    """What defines a measure: A + P^T P = shift I + a skew-symmetric matrix."""

    matrices: Callable[[int], tuple[Tensor, Tensor]]  # N -> A r(N, N), B r(N)
    low_rank: Callable[[int], Tensor]  # N -> P r(R, N)
    shift: float
    basis: Callable[[int, Tensor], Tensor]  # N, ages r(K) -> g_n(a) r(K, N)


def legs(N: int) -> tuple[Tensor, Tensor]:
    """LegS: A[n,k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above; B[n] = sqrt(2n+1)."""
    r = _legendre_norms(N)
    A = -torch.tril(r[:, None] * r, diagonal=-1) - torch.diag(torch.arange(1, N + 1, dtype=torch.float64))
    return A, r


def legt(N: int) -> tuple[Tensor, Tensor]:
    """LegT: A[n,k] = -sqrt((2n+1)(2k+1))/2, times (-1)^(n-k) above the diagonal; B[n] = sqrt(2n+1)/2."""
    r = _legendre_norms(N)
    n = torch.arange(N)
    sign = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] + n), 1.0)
    return -sign * r[:, None] * r / 2, r / 2


def lagt(N: int) -> tuple[Tensor, Tensor]:
    """LagT: A[n,k] = -1 below the diagonal, -1/2 on it, 0 above; B[n] = 1."""
    ones = torch.ones(N, N, dtype=torch.float64)
    return torch.eye(N, dtype=torch.float64) / 2 - torch.tril(ones), ones[0].clone()


def fourier(N: int) -> tuple[Tensor, Tensor]:
    """FouT: A = S - B B^T, S the rotations by pi m of the pairs (2m, 2m+1); B = 1, 0, sqrt(2), 0, sqrt(2), 0, .."""
    m = torch.arange(N // 2)
    S = torch.zeros(N, N, dtype=torch.float64)
    S[2 * m + 1, 2 * m] = torch.pi * m.double()
    B = torch.zeros(N, dtype=torch.float64)
    B[::2] = 2**0.5
    B[0] = 1
    return S - S.T - B[:, None] * B, B


def _legendre_norms(N: int) -> Tensor:
    return torch.sqrt(2 * torch.arange(N, dtype=torch.float64) + 1)


def _legs_low_rank(N: int) -> Tensor:
    return _legendre_norms(N)[None] / 2**0.5


def _legt_low_rank(N: int) -> Tensor:
    """Two rows: the odd and the even functions."""
    even = torch.arange(N) % 2 == 0
    return torch.stack((~even, even)) * _legendre_norms(N) / 2**0.5


def _lagt_low_rank(N: int) -> Tensor:
    return torch.full((1, N), 0.5**0.5, dtype=torch.float64)


def _fourier_low_rank(N: int) -> Tensor:
    return fourier(N)[1][None]


def _legendre(N: int, y: Tensor) -> Tensor:
    """sqrt(2n+1) P_n(y), r(K, N)."""
    return torch.from_numpy(legendre.legvander(y.numpy(), N - 1)) * _legendre_norms(N)


def _laguerre_basis(N: int, age: Tensor) -> Tensor:
    return torch.from_numpy(laguerre.lagvander(age.numpy(), N - 1)) * torch.exp(-age / 2)[:, None]


def _fourier_basis(N: int, age: Tensor) -> Tensor:
    angles = torch.pi * age[:, None] * torch.arange(N // 2, dtype=torch.float64)
    basis = torch.stack((torch.cos(angles), torch.sin(angles)), dim=-1).flatten(1) * 2**0.5
    basis[:, 0] = 1
    return basis


MEASURES: dict[str, Measure] = {
    "legs": Measure(legs, _legs_low_rank, -0.5, lambda N, age: _legendre(N, 1 - 2 * age)),
    "legt": Measure(legt, _legt_low_rank, 0.0, lambda N, age: _legendre(N, 1 - age)),
    "lagt": Measure(lagt, _lagt_low_rank, 0.0, _laguerre_basis),
    "fourier": Measure(fourier, _fourier_low_rank, 0.0, _fourier_basis),
}


def dense(measure: str, N: int) -> tuple[Tensor, Tensor]:
    """A r(N, N) and B r(N) of a measure. Raises ValueError for an unknown measure or an odd N."""
    return _measure(measure, N).matrices(N)


def low_rank(measure: str, N: int) -> Tensor:
    """P r(R, N) such that A + P^T P = shift I + a skew-symmetric matrix; R = 2 for legt, else 1."""
    return _measure(measure, N).low_rank(N)


def basis(measure: str, N: int, age: Tensor) -> Tensor:
    """g_n(age) r(K, N) at ages r(K) >= 0 in the measure's own time (for legs: as shares of the whole past).

    ``basis @ x`` is the past that the state x stands for. Raises ValueError as `dense`.
    """
    return _measure(measure, N).basis(N, age.double())


def nplr(measure: str, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal plus low-rank form, diagonalised: Lambda c(n), P c(R, n), B c(n), complex128, for n = N/2.

    On the full, conjugate-complete state diag(Lambda) - sum_r P_r P_r^* is A in another orthonormal basis (S4, theorem
    1). A + P^T P = shift I + S with S skew-symmetric, so the basis V comes from the Hermitian matrix -iS: it is unitary
    and the change of basis loses nothing. Of each conjugate pair the member with Im Lambda <= 0 is kept. Re Lambda =
    shift exactly: 0 for all but legs; what makes it a parameter lifts -Re Lambda to `transforms.FLOOR`. Raises
    ValueError as `dense`.
    """
    # The values decide which eigenvectors are kept, so they have to be there, also for a model on the meta device.
    wanted = torch.get_default_device()
    with torch.device("cpu"):
        A, B = dense(measure, N)
        P = low_rank(measure, N)
        skew = A + P.T @ P
        frequencies, V = _conjugate_half(((skew - skew.T) / 2).numpy())
        Lambda = torch.complex(torch.full_like(frequencies, MEASURES[measure].shift), frequencies)
        to_basis = V.conj().T  # rows: eigenvectors^*
        found = Lambda, P.to(torch.complex128) @ to_basis.T, to_basis @ B.to(torch.complex128)
    Lambda, P, B = (x.to(wanted) for x in found)
    return Lambda, P, B


def _conjugate_half(skew: np.ndarray) -> tuple[Tensor, Tensor]:
    """Frequencies r(n) <= 0, ascending, and vectors V c(N, n): [V, conj(V)] is unitary and diagonalises the matrix.

    Eigenvectors of different eigenvalues are orthogonal, so those of w < 0 and their conjugates (of -w) are as wanted.
    For a double eigenvalue 0 (fourier) any two vectors of its real plane come out, in general not v and conj(v): v is
    then (q0 + i q1)/sqrt(2) of a real orthonormal basis q0, q1 of that plane.
    """
    frequencies, V = np.linalg.eigh(-1j * skew)  # ascending
    n = len(skew) // 2
    zero = np.abs(frequencies) <= 1e-12 * np.abs(frequencies).max()
    if zero.any():
        projector = (V[:, zero] @ V[:, zero].conj().T).real
        q = np.linalg.eigh(projector)[1][:, -zero.sum() :]
        V[:, :n][:, zero[:n]] = (q[:, ::2] + 1j * q[:, 1::2]) / 2**0.5
        frequencies[zero] = 0
    return torch.from_numpy(frequencies[:n].copy()), torch.from_numpy(V[:, :n].copy())


def check_state_size(N: int) -> None:
    """Raises ValueError unless N is even and positive."""
    if N < 2 or N % 2:
        raise ValueError(
            f"state size N = {N}: expected an even number, at least 2, because eigenvalues come in conjugate pairs; "
            f"use N = {max(2, N + N % 2)}"
        )


def _measure(name: str, N: int) -> Measure:
    check_state_size(N)
    if name not in MEASURES:
        raise ValueError(f"unknown measure {name!r}: expected one of {', '.join(MEASURES)}")
    return MEASURES[name]
