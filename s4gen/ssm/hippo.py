"""HiPPO matrices: systems dx/dt = A x + B u whose state is a compressed memory of the past input (float64).

The state holds the coefficients of the past in a basis of functions g_n. With a = t - s, the age of the input u(s),

    x_n(t) = integral w(a) g_n(a) u(t - a) da          what the state keeps; w is the weight of the measure
    u(t - a) ~ sum_n x_n(t) g_n(a)                     how the past is read back

The measures differ in the basis and in the part of the past that they weigh:

    measure    g_n(a)                                 where                       normal part
    legs       sqrt(2n+1) P_n(1 - 2a)                 a: the age as a share of t  -1/2, rank 1
    legt       sqrt(2n+1) P_n(1 - a)                  the window 0 <= a <= 2      0, rank 2
    lagt       exp(-a/2) L_n(a)                       a >= 0                      0, rank 1
    fourier    1, 0, sqrt(2) cos(pi m a), sqrt(2) sin(pi m a), m = 1 .. N/2 - 1
                                                      the window 0 <= a <= 2      0, rank 1

P_n are the Legendre and L_n the Laguerre polynomials. "Normal part" gives the real part of the eigenvalues and the rank
R of the correction (see `nplr`).

- legs and lagt keep exactly this integral. legt and fourier keep it approximately: to forget what leaves their window
  they must know it, and they take it from the state's own reading of the past.
- HiPPO's theorem for legs is about dx/dt = (A x + B u) / t, where A acts in the logarithm of time. S4 drops the 1/t.
  The state then keeps all of the past through a warped basis, g_n(1 - exp(-a)).
- legt and fourier ("FouT") have a window of length 2 here, so their matrices are half of those that the papers print
  for a window of 1.
- The second function of fourier is sin(0) = 0. It is kept so that sines and cosines pair up.

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
    """The definition of a measure: A + P^T P = shift I + S with S skew-symmetric (S4, appendix C)."""

    matrices: Callable[[int], tuple[Tensor, Tensor]]  # N -> A r(N, N), B r(N)
    low_rank: Callable[[int], Tensor]  # N -> P r(R, N)
    shift: float
    basis: Callable[[int, Tensor], Tensor]  # N, ages r(K) -> g_n(a) r(K, N)


def legs(N: int) -> tuple[Tensor, Tensor]:
    """LegS: A[n,k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, else 0; B[n] = sqrt(2n+1) (S4, eq. 2)."""
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
    """FouT: A = S - B B^T, where S rotates the pair (2m, 2m+1) at the rate pi m.

    B = 1, 0, sqrt(2), 0, sqrt(2), 0, ...
    """
    m = torch.arange(N // 2)
    S = torch.zeros(N, N, dtype=torch.float64)
    S[2 * m + 1, 2 * m] = torch.pi * m.double()
    B = torch.zeros(N, dtype=torch.float64)
    B[::2] = 2**0.5
    B[0] = 1
    return S - S.T - B[:, None] * B, B


def _legendre_norms(N: int) -> Tensor:
    """Return sqrt(2n+1) r(N): it makes the Legendre polynomials orthonormal."""
    return torch.sqrt(2 * torch.arange(N, dtype=torch.float64) + 1)


def _legs_low_rank(N: int) -> Tensor:
    return _legendre_norms(N)[None] / 2**0.5


def _legt_low_rank(N: int) -> Tensor:
    """Return two rows, one over the odd functions and one over the even ones."""
    even = torch.arange(N) % 2 == 0
    return torch.stack((~even, even)) * _legendre_norms(N) / 2**0.5


def _lagt_low_rank(N: int) -> Tensor:
    return torch.full((1, N), 0.5**0.5, dtype=torch.float64)


def _fourier_low_rank(N: int) -> Tensor:
    return fourier(N)[1][None]


def _legendre(N: int, y: Tensor) -> Tensor:
    """Evaluate sqrt(2n+1) P_n at y r(K): r(K, N)."""
    return torch.from_numpy(legendre.legvander(y.numpy(), N - 1)) * _legendre_norms(N)


def _laguerre_basis(N: int, age: Tensor) -> Tensor:
    return torch.from_numpy(laguerre.lagvander(age.numpy(), N - 1)) * torch.exp(-age / 2)[:, None]


def _fourier_basis(N: int, age: Tensor) -> Tensor:
    angles = torch.pi * age[:, None] * torch.arange(N // 2, dtype=torch.float64)
    basis = torch.stack((torch.cos(angles), torch.sin(angles)), dim=-1).flatten(1) * 2**0.5
    basis[:, 0] = 1  # cos(0): the only function that needs no sqrt(2) to have norm 1
    return basis


MEASURES: dict[str, Measure] = {
    "legs": Measure(legs, _legs_low_rank, -0.5, lambda N, age: _legendre(N, 1 - 2 * age)),
    "legt": Measure(legt, _legt_low_rank, 0.0, lambda N, age: _legendre(N, 1 - age)),
    "lagt": Measure(lagt, _lagt_low_rank, 0.0, _laguerre_basis),
    "fourier": Measure(fourier, _fourier_low_rank, 0.0, _fourier_basis),
}


def dense(measure: str, N: int) -> tuple[Tensor, Tensor]:
    """Return A r(N, N) and B r(N) of a measure, as the papers print them.

    Raises:
        ValueError: the measure is unknown, or N is odd.
    """
    return _measure(measure, N).matrices(N)


def low_rank(measure: str, N: int) -> Tensor:
    """Return P r(R, N) such that A + P^T P = shift I + a skew-symmetric matrix; R = 2 for legt, else 1.

    Raises:
        ValueError: as in `dense`.
    """
    return _measure(measure, N).low_rank(N)


def basis(measure: str, N: int, age: Tensor) -> Tensor:
    """Evaluate the basis g_n at ages r(K) >= 0: r(K, N). ``basis @ x`` is the past that the state x stands for.

    Ages are in the measure's own time; for legs they are shares of the whole past, 0 to 1.

    Raises:
        ValueError: as in `dense`.
    """
    return _measure(measure, N).basis(N, age.double())


def nplr(measure: str, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonalise a measure: return Lambda c(n), P c(R, n) and B c(n) in complex128, where n = N/2.

        A = V (diag(Lambda) - sum_r P_r P_r^*) V^*         with V unitary          (S4, theorem 1)

    on the full state, both members of each conjugate pair; the one with Im Lambda <= 0 is returned. Since
    A + P^T P = shift I + S with S skew-symmetric, V consists of eigenvectors of the Hermitian matrix -iS. It is
    therefore unitary, and the change of basis loses no precision, whatever N is.

    Re Lambda is exactly `shift`, which is 0 for all measures but legs. A layer that trains Lambda lifts -Re Lambda to
    `transforms.FLOOR` first.

    Raises:
        ValueError: as in `dense`.
    """
    wanted = torch.get_default_device()
    if wanted.type == "meta":  # where shapes are all that is asked for, nothing is computed, whatever N is
        rank, n = len(low_rank(measure, 2)), _checked_size(N) // 2
        Lambda, P, B = (torch.empty(shape, dtype=torch.complex128) for shape in ((n,), (rank, n), (n,)))
        return Lambda, P, B
    with torch.device("cpu"):
        A, B = dense(measure, N)
        P = low_rank(measure, N)
        skew = A + P.T @ P
        frequencies, V = _conjugate_half(((skew - skew.T) / 2).numpy())
        Lambda = torch.complex(torch.full_like(frequencies, MEASURES[measure].shift), frequencies)
        to_basis = V.conj().T  # V^* x: its rows are the conjugate eigenvectors
        found = Lambda, P.to(torch.complex128) @ to_basis.T, to_basis @ B.to(torch.complex128)
    Lambda, P, B = (x.to(wanted) for x in found)
    return Lambda, P, B


def _conjugate_half(skew: np.ndarray) -> tuple[Tensor, Tensor]:
    """Diagonalise a real skew-symmetric matrix by half of its eigenvectors.

    Returns frequencies r(n) <= 0 in ascending order and vectors V c(N, n) such that [V, conj(V)] is unitary.
    Eigenvectors of different eigenvalues are orthogonal, so the vectors of frequencies w < 0 and their conjugates,
    which belong to -w, will do. Only the double eigenvalue 0 of fourier needs care: any two vectors of its real plane
    may come out of the solver, in general not v and conj(v). There v = (q0 + i q1)/sqrt(2) is built from a real
    orthonormal basis q0, q1 of the plane.
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
    """Refuse a state size that is odd or less than 2.

    Raises:
        ValueError: it is.
    """
    if N < 2 or N % 2:
        raise ValueError(
            f"state size N = {N}: expected an even number, at least 2, because eigenvalues come in conjugate pairs; "
            f"use N = {max(2, N + N % 2)}"
        )


def _checked_size(N: int) -> int:
    check_state_size(N)
    return N


def _measure(name: str, N: int) -> Measure:
    check_state_size(N)
    if name not in MEASURES:
        raise ValueError(f"unknown measure {name!r}: expected one of {', '.join(MEASURES)}")
    return MEASURES[name]
