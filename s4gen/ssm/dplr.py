"""S4, diagonal plus low-rank state space models: kernel, block maps and O(N) step, both views side by side.

    A = diag(Lambda) - sum_r P_r Q_r^*        on the full state, both members of each conjugate pair

discretised by the bilinear rule. Source: S4 (arXiv 2111.00396), appendix C. Q c(R, H, n) is P unless it is given; only
the earliest published models have a Q of their own. C is always the true output vector: the truncated
C~ = C (I - Abar^L) of the paper exists only inside `cauchy_kernel`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s4gen.ssm import diagonal
from s4gen.ssm.block_form import BlockMaps
from s4gen.ssm.krylov import doublings, krylov_vectors, power
from s4gen.ssm.lowrank import chains
from s4gen.ssm.realform import column, diagonal_matrix, multiplier, multiply, row, row_to_complex
from s4gen.ssm.recompute import recomputed, recomputed_by_heads


class StepConstants(NamedTuple):
    """The discrete system in real form: Abar = diag(a) - sum_r p_r q_r, Bbar, Cbar."""

    a: Tensor  # r(2, H, N), diagonal as `realform.multiplier`
    p: Tensor  # r(R, H, N) columns
    q: Tensor  # r(R, H, N) rows
    B_bar: Tensor  # r(H, N)
    C_bar: Tensor  # r(H, N)


def step_constants(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> StepConstants:
    """Discretise by the bilinear rule, in complex128; the result is rounded once, to the precision of C.

    The rule is Abar = (I - dt/2 A)^-1 (I + dt/2 A) and Bbar = (I - dt/2 A)^-1 dt B (S4, eq. 3). The Woodbury identity
    gives the inverse. With D = 1/(1 - dt/2 Lambda), E = 1 + dt/2 Lambda and G = 2/dt I + Q^* D P, of size R x R:

        (I - dt/2 A)^-1 = D - D P G^-1 Q^* D
        Abar            = D E - D P (dt/2 Q^* + G^-1 Q^* D (E - dt/2 P Q^*))
        Bbar            = dt (D B - D P G^-1 Q^* D B)

    So Abar stays diagonal plus rank R, and a step costs O(R N) instead of O(N^2) (S4, appendix C.2).
    """
    real = C.real.dtype
    return StepConstants(*(t.to(real) for t in exact_constants(Lambda, P, B, C, dt, Q)))


def exact_constants(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> StepConstants:
    """Return the same as `step_constants`, in float64."""
    Q = P if Q is None else Q
    Lambda, P, B, C, Q = (t.to(torch.complex128) for t in (Lambda, P, B, C, Q))
    h = dt.to(torch.float64)[:, None]
    D, E = 1 / (1 - h / 2 * Lambda), 1 + h / 2 * Lambda
    DP = column(D * P)  # r(R, H, N)
    Q_row, QD_row = row(Q.conj()), row(Q.conj() * D)  # these map x to Q^* x and Q^* D x, summed over the full state
    QDP = torch.einsum("rhn,shn->hrs", Q_row, DP)
    identity = torch.eye(P.shape[0], dtype=torch.float64, device=dt.device)
    # G = 2/dt I + Q^* D P
    G_inv = torch.linalg.inv(2 / h[..., None] * identity + QDP)  # r(H, R, R)
    # q = dt/2 Q^* + G^-1 Q^* D (E - dt/2 P Q^*), so that Abar = D E - D P q
    QDE_row = row(Q.conj() * D * E)
    q = h / 2 * Q_row + torch.einsum("hrs,shn->rhn", G_inv, QDE_row)
    q = q - h / 2 * torch.einsum("hrs,hst,thn->rhn", G_inv, QDP, Q_row)
    # Bbar = dt (D B - D P G^-1 Q^* D B)
    QDB = torch.einsum("rhn,hn->hr", QD_row, column(B))
    B_bar = h * (column(D * B) - torch.einsum("rhn,hrs,hs->hn", DP, G_inv, QDB))
    return StepConstants(multiplier(column(D * E)), DP, q, B_bar, row(C))


def step(constants: StepConstants, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take one recurrent step: x' = Abar x + Bbar u, y = Cbar x'; return y r(B, H) and x' r(B, H, N).

    u is r(B, H) and x r(B, H, N). A step costs O(R N) per feature.
    """
    a, p, q, B_bar, C_bar = constants
    new = torch.addcmul(multiply(a, x), B_bar, u[..., None])
    for p_r, q_r in zip(p, q, strict=True):
        new = torch.addcmul(new, p_r, (x * q_r).sum(-1, keepdim=True), value=-1)
    return (new * C_bar).sum(-1), new


def dense_transition(constants: StepConstants) -> Tensor:
    """Return Abar as a real matrix r(H, N, N)."""
    return diagonal_matrix(constants.a) - torch.einsum("rhi,rhj->hij", constants.p, constants.q)


def _discrete(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the arguments of `lowrank.chains`: all in float64 but C_bar, and with the heads first."""
    constants = exact_constants(Lambda, P, B, C, dt, Q)
    log_D, _ = diagonal.discretize(Lambda, B, dt, "bilinear")
    p, q = constants.p.transpose(0, 1), constants.q.transpose(0, 1)
    return log_D, p, q, constants.B_bar, constants.C_bar.to(C.real.dtype)


def block_maps(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, T: int, last: int, Q: Tensor | None = None
) -> BlockMaps:
    """Return the matrices for `block_form.block_convolve`, for blocks of length T and a last one of length `last`."""
    exponents = sorted({1, last, T})

    def maps(log_D: Tensor, p: Tensor, q: Tensor, B_bar: Tensor, C_bar: Tensor) -> tuple[Tensor, ...]:
        found = chains(log_D, p, q, B_bar, C_bar, T)
        kernel = (found.inputs @ C_bar[..., None])[..., 0]
        return kernel, found.inputs.flip(1), found.outputs, *(found.power(k).dense() for k in exponents)

    N = 2 * B.shape[-1]
    kernel, into_state, outputs, *dense = recomputed_by_heads(maps, N * N, *_discrete(Lambda, P, B, C, dt, Q))
    powers = dict(zip(exponents, dense, strict=True))
    return BlockMaps(kernel, into_state, outputs.transpose(1, 2), powers[1], powers[T], powers[last])


def krylov_kernel(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int, Q: Tensor | None = None
) -> Tensor:
    """Return the convolution kernel K[l] = C Abar^l Bbar, r(H, L), as a product of two Krylov matrices.

    K[l1 S + l2] = (C Abar^(l1 S)) (Abar^l2 Bbar) with S ~ sqrt(L). Both factors are made by doubling, in O(H N sqrt(L))
    memory. Abar^S has full rank; its powers are squared in float64, because squaring in float32 loses digits.
    """
    S = 2 ** ((L - 1).bit_length() // 2)
    n_coarse = -(-L // S)

    def tile(log_D: Tensor, p: Tensor, q: Tensor, B_bar: Tensor, C_bar: Tensor) -> tuple[Tensor]:
        found = chains(log_D, p, q, B_bar, C_bar, S)
        coarse = doublings(found.power(S).dense().double().transpose(1, 2), n_coarse)
        left = krylov_vectors(coarse, C_bar, n_coarse)
        return ((found.inputs @ left).transpose(1, 2).flatten(1)[:, :L],)

    N = 2 * B.shape[-1]
    return recomputed_by_heads(tile, 2 * N * N, *_discrete(Lambda, P, B, C, dt, Q))[0]


# How many complex numbers one tile of Cauchy sums may hold: 2^20 are 8 MB in complex64.
_TILE = 2**20


def cauchy_kernel(Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int) -> Tensor:
    """Return the convolution kernel K[l] = C Abar^l Bbar, r(H, L), from its generating function (S4, algorithm 1).

    At a root of unity w the generating function of the first L taps is

        sum_l K[l] w^l = C~ (I - w Abar)^-1 Bbar = dt C~ (diag(delta) + s P P^*)^-1 B
        C~ = C (I - Abar^L),   delta = (1 - w) - s Lambda,   s = dt/2 (1 + w)

    so it needs Cauchy-like sums over the 2n modes, and the Woodbury identity for P P^*. An inverse FFT of its values
    at all L roots gives K. Unlike the form in the paper, which divides by 1 + w, this one has no pole at w = -1.
    """

    def truncated(A: Tensor, C_bar: Tensor) -> tuple[Tensor]:
        return (C_bar - (C_bar[:, None, :] @ power(doublings(A, L), L))[:, 0],)

    constants = exact_constants(Lambda, P, B, C, dt)
    A = dense_transition(constants)
    (C_trunc,) = recomputed_by_heads(truncated, 2 * A[0].numel(), A, constants.C_bar)
    return truncated_cauchy_kernel(Lambda, P, B, row_to_complex(C_trunc).to(C.dtype), dt, L)


def truncated_cauchy_kernel(
    Lambda: Tensor, P: Tensor, B: Tensor, C_trunc: Tensor, dt: Tensor, L: int, tile: int = _TILE
) -> Tensor:
    """Return the kernel of `cauchy_kernel` from a C~ = C (I - Abar^L) c(H, n) that is known.

    The sums are made in tiles of frequencies, `tile` complex numbers at a time, and again in the backward pass, so that
    nothing of size H N L is ever kept.
    """
    Lambda_full = _full(Lambda)
    left = torch.cat((_full(C_trunc)[None], _full(P.conj())))  # c(1+R, H, 2n)
    right = torch.cat((_full(B)[None], _full(P)))
    pairs = torch.einsum("ahn,bhn->hnab", left, right).flatten(-2)
    # Roots are made from angles in float64: powers of a rounded root lose three digits by L = 16,384.
    frequencies = torch.arange(L // 2 + 1, dtype=torch.float64, device=dt.device)
    angles = frequencies * (-2 * torch.pi / L)
    tiles = angles.split(max(1, tile // Lambda.numel()))
    spectrum = torch.cat([recomputed(_cauchy_tile, angle, Lambda_full, pairs, dt)[0] for angle in tiles], dim=-1)
    return torch.fft.irfft(spectrum, n=L)


def _full(v: Tensor) -> Tensor:
    """Add the other member of every conjugate pair: c(..., n) -> c(..., 2n)."""
    return torch.cat((v, v.conj()), -1)


def _cauchy_tile(angle: Tensor, Lambda: Tensor, pairs: Tensor, dt: Tensor) -> tuple[Tensor]:
    """Evaluate the generating function at w = exp(i angle), angle r(F): c(H, F).

    Lambda is c(H, 2n). pairs c(H, 2n, (1+R)^2) are the products of C~ and P^* with B and P, mode by mode.
    """
    working = pairs.dtype
    w = torch.polar(torch.ones_like(angle), angle)
    s = dt.to(torch.float64)[:, None] / 2 * (1 + w)  # c(H, F)
    inverse = 1 / ((1 - w)[:, None] - s[..., None] * Lambda[:, None, :])  # c(H, F, 2n) in complex128
    size = math.isqrt(pairs.shape[-1])  # 1 + R
    sums = (inverse.to(working) @ pairs).unflatten(-1, (size, size))  # c(H, F, 1+R, 1+R)
    s = s.to(working)[..., None, None]
    # Woodbury: C~ D B - s C~ D P (I + s P^* D P)^-1 P^* D B, where D = 1/delta
    inner = torch.eye(size - 1, dtype=working, device=dt.device) + s * sums[..., 1:, 1:]
    correction = s * sums[..., :1, 1:] @ torch.linalg.solve(inner, sums[..., 1:, :1])
    return ((sums[..., :1, :1] - correction)[..., 0, 0] * dt[:, None],)
