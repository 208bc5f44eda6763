"""S4: diagonal plus low-rank state space models, bilinear; kernel, block maps and O(N) step, side by side.

A = diag(Lambda) - sum_r P_r Q_r^*, on the full (conjugate-complete) state. Sources: S4 (arXiv 2111.00396), appendix C.
Q c(R, H, n) is P wherever it is not given, as in every model but the earliest published ones.
C is always the true output vector; the truncated C~ = C (I - Abar^L) exists only inside `cauchy_kernel`.
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
    """Abar = diag(a) - sum_r p_r q_r in real form, Bbar, Cbar: one step costs O(R N) per head."""

    a: Tensor  # r(2, H, N), diagonal as `realform.multiplier`
    p: Tensor  # r(R, H, N) columns
    q: Tensor  # r(R, H, N) rows
    B_bar: Tensor  # r(H, N)
    C_bar: Tensor  # r(H, N)


def step_constants(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> StepConstants:
    """Discretise by the bilinear rule and invert by Woodbury; computed in complex128 and rounded once.

    Abar = (I - dt/2 A)^-1 (I + dt/2 A). With D = 1/(1 - dt/2 Lambda), E = 1 + dt/2 Lambda, G = 2/dt I + Q^* D P:
        (I - dt/2 A)^-1 = D - D P G^-1 Q^* D
        Abar            = D E - D P (dt/2 Q^* + G^-1 Q^* D (E - dt/2 P Q^*))
    so Abar stays diagonal plus rank R and Bbar = dt (D B - D P G^-1 Q^* D B).
    """
    real = C.real.dtype
    return StepConstants(*(t.to(real) for t in exact_constants(Lambda, P, B, C, dt, Q)))


def exact_constants(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> StepConstants:
    """`step_constants` in float64."""
    Q = P if Q is None else Q
    Lambda, P, B, C, Q = (t.to(torch.complex128) for t in (Lambda, P, B, C, Q))
    h = dt.to(torch.float64)[:, None]
    D, E = 1 / (1 - h / 2 * Lambda), 1 + h / 2 * Lambda
    DP = column(D * P)  # r(R, H, N)
    Q_row, QD_row = row(Q.conj()), row(Q.conj() * D)  # x -> Q^* x and x -> Q^* D x over the full state
    QDP = torch.einsum("rhn,shn->hrs", Q_row, DP)
    identity = torch.eye(P.shape[0], dtype=torch.float64, device=dt.device)
    G_inv = torch.linalg.inv(2 / h[..., None] * identity + QDP)  # r(H, R, R)
    QDE_row = row(Q.conj() * D * E)
    q = h / 2 * Q_row + torch.einsum("hrs,shn->rhn", G_inv, QDE_row)
    q = q - h / 2 * torch.einsum("hrs,hst,thn->rhn", G_inv, QDP, Q_row)
    QDB = torch.einsum("rhn,hn->hr", QD_row, column(B))
    B_bar = h * (column(D * B) - torch.einsum("rhn,hrs,hs->hn", DP, G_inv, QDB))
    return StepConstants(multiplier(column(D * E)), DP, q, B_bar, row(C))


def step(constants: StepConstants, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One recurrent step: x' = Abar x + Bbar u, y = Cbar x'. u r(B, H), x r(B, H, N); O(R N) per head."""
    a, p, q, B_bar, C_bar = constants
    new = torch.addcmul(multiply(a, x), B_bar, u[..., None])
    for p_r, q_r in zip(p, q, strict=True):
        new = torch.addcmul(new, p_r, (x * q_r).sum(-1, keepdim=True), value=-1)
    return (new * C_bar).sum(-1), new


def dense_transition(constants: StepConstants) -> Tensor:
    """Abar as a real matrix r(H, N, N)."""
    return diagonal_matrix(constants.a) - torch.einsum("rhi,rhj->hij", constants.p, constants.q)


def _discrete(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, Q: Tensor | None = None
) -> tuple[Tensor, ...]:
    """What `lowrank.chains` takes: all in float64 but C_bar, and with the heads first."""
    constants = exact_constants(Lambda, P, B, C, dt, Q)
    log_D, _ = diagonal.discretize(Lambda, B, dt, "bilinear")
    p, q = constants.p.transpose(0, 1), constants.q.transpose(0, 1)
    return log_D, p, q, constants.B_bar, constants.C_bar.to(C.real.dtype)


def block_maps(
    Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, T: int, last: int, Q: Tensor | None = None
) -> BlockMaps:
    """Everything `block_form.block_convolve` needs for blocks of length T and a last one of length `last`."""
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
    """Convolution kernel K[l] = C Abar^l Bbar, r(H, L), as a product of two Krylov matrices.

    K[l1 S + l2] = (C Abar^(l1 S)) (Abar^l2 Bbar) with S ~ sqrt(L): both factors by doubling, O(H N sqrt(L)) memory. The
    powers of Abar^S, which has full rank, are squared in float64.
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


# Complex numbers in one tile of Cauchy sums: 2^20 are 8 MB in complex64.
_TILE = 2**20


def cauchy_kernel(Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int) -> Tensor:
    """Convolution kernel K[l] = C Abar^l Bbar, r(H, L), by its generating function (S4, algorithm 1).

    At a root of unity w,  sum_l K[l] w^l = C~ (I - w Abar)^-1 Bbar = dt C~ (diag(delta) + s P P^*)^-1 B  with
    delta = (1 - w) - s Lambda and s = dt/2 (1 + w): Cauchy-like sums over the 2n modes, and Woodbury for P P^*. This
    form has no pole at w = -1. Nodes come from float64: powers of a rounded root lose three digits by L = 16384. The
    sums are made in tiles of frequencies, and again in the backward pass, so that nothing of size H N L is kept.
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
    """`cauchy_kernel` from C~ = C (I - Abar^L) c(H, n); `tile` complex numbers of Cauchy sums at a time."""
    Lambda_full = _full(Lambda)
    left = torch.cat((_full(C_trunc)[None], _full(P.conj())))  # c(1+R, H, 2n)
    right = torch.cat((_full(B)[None], _full(P)))
    pairs = torch.einsum("ahn,bhn->hnab", left, right).flatten(-2)
    frequencies = torch.arange(L // 2 + 1, dtype=torch.float64, device=dt.device)
    angles = frequencies * (-2 * torch.pi / L)
    tiles = angles.split(max(1, tile // Lambda.numel()))
    spectrum = torch.cat([recomputed(_cauchy_tile, angle, Lambda_full, pairs, dt)[0] for angle in tiles], dim=-1)
    return torch.fft.irfft(spectrum, n=L)


def _full(v: Tensor) -> Tensor:
    """Both members of every conjugate pair: c(..., n) -> c(..., 2n)."""
    return torch.cat((v, v.conj()), -1)


def _cauchy_tile(angle: Tensor, Lambda: Tensor, pairs: Tensor, dt: Tensor) -> tuple[Tensor]:
    """The spectrum c(H, F) at w = exp(i angle); Lambda c(H, 2n), pairs c(H, 2n, (1+R)^2) products of the vectors."""
    working = pairs.dtype
    w = torch.polar(torch.ones_like(angle), angle)
    s = dt.to(torch.float64)[:, None] / 2 * (1 + w)  # c(H, F)
    inverse = 1 / ((1 - w)[:, None] - s[..., None] * Lambda[:, None, :])  # c(H, F, 2n) in complex128
    size = math.isqrt(pairs.shape[-1])
    sums = (inverse.to(working) @ pairs).unflatten(-1, (size, size))  # c(H, F, 1+R, 1+R)
    s = s.to(working)[..., None, None]
    inner = torch.eye(size - 1, dtype=working, device=dt.device) + s * sums[..., 1:, 1:]
    correction = s * sums[..., :1, 1:] @ torch.linalg.solve(inner, sums[..., 1:, :1])
    return ((sums[..., :1, :1] - correction)[..., 0, 0] * dt[:, None],)
