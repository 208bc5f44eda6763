"""S4, diagonal plus low-rank state space models: kernel, block maps and O(N) step, both views side by side.

    A = diag(Lambda) - sum_r P_r Q_r^*        on the full state, both members of each conjugate pair

discretised by the bilinear rule. Source: S4 (arXiv 2111.00396), appendix C. Q c(R, H, n) is P unless it is given; only
the earliest published models have a Q of their own. C is always the true output vector: the truncated
C~ = C (I - Abar^L) of the paper exists only inside `cauchy_kernel`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


# How many numbers one tile of Cauchy sums may hold: 2^19 are 2 MB in float32.
_TILE = 2**19


def cauchy_kernel(Lambda: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int) -> Tensor:
    """Return the convolution kernel K[l] = C Abar^l Bbar, r(H, L), from its generating function (S4, algorithm 1).

    At a root of unity w = exp(i a) the generating function of the first L taps is (S4, lemma C.3)

        sum_l K[l] w^l = C~ (I - w Abar)^-1 Bbar = 2/(1 + w) C~ (g I - A)^-1 B,
        C~ = C (I - Abar^L),   g = 2/dt (1 - w)/(1 + w)

    With A = diag(Lambda) - P P^*, Woodbury makes of it Cauchy sums k(x, y) = sum_n x_n y_n / (g - Lambda_n):

        2/(1 + w) (k(C~, B) - k(C~, P) (1 + k(P^*, P))^-1 k(P^*, B))

    An inverse FFT of the values at all L roots gives K. Here numerators and denominators are multiplied by
    dt/2 (1 + w), because g has a pole at w = -1: see `_cauchy_tile`.
    """

    def truncated(A: Tensor, C_bar: Tensor) -> tuple[Tensor]:
        return (C_bar - (C_bar[:, None, :] @ power(doublings(A, L), L))[:, 0],)

    constants = exact_constants(Lambda, P, B, C, dt)
    A = dense_transition(constants)
    (C_trunc,) = recomputed_by_heads(truncated, 2 * A[0].numel(), A, constants.C_bar)
    return truncated_cauchy_kernel(Lambda, P, B, row_to_complex(C_trunc).to(C.dtype), dt, L)


def truncated_cauchy_kernel(Lambda: Tensor, P: Tensor, B: Tensor, C_trunc: Tensor, dt: Tensor, L: int) -> Tensor:
    """Return the kernel of `cauchy_kernel` from a C~ = C (I - Abar^L) c(H, n) that is known.

    The sums are made in tiles of heads and frequencies, and again in the backward pass, so that nothing of size H N L
    is ever kept.
    """
    left = torch.cat((C_trunc[None], P.conj())).to(torch.complex128)  # c(1+R, H, n)
    right = torch.cat((B[None], P)).to(torch.complex128)
    # Of each product v = x y of the four sums, what a pair of modes needs: Re(v conj(Lambda)) and Re v.
    products = torch.einsum("ahn,bhn->hnab", left, right).flatten(-2)  # c(H, n, (1+R)^2)
    weights = torch.cat(((products * Lambda.conj()[..., None]).real, products.real), -1)  # r(H, n, 2 (1+R)^2)
    # Roots are made from angles in float64: powers of a rounded root lose three digits by L = 16,384.
    angles = torch.arange(L // 2 + 1, dtype=torch.float64, device=dt.device) * (-2 * torch.pi / L)
    n = Lambda.shape[1]
    wide = min(len(angles), max(1, _TILE // n))  # frequencies in a tile
    together = max(1, _TILE // (n * wide))  # heads in a tile
    tiles = zip(*(x.split(together) for x in (Lambda.real, Lambda.imag, weights, dt)), strict=True)
    rows = [torch.cat([recomputed(_cauchy_tile, a, *heads)[0] for a in angles.split(wide)], dim=-1) for heads in tiles]
    return torch.fft.irfft(torch.cat(rows), n=L)


def _cauchy_tile(angle: Tensor, Lambda_re: Tensor, Lambda_im: Tensor, weights: Tensor, dt: Tensor) -> tuple[Tensor]:
    """Evaluate the generating function at w = exp(i angle), angle r(F): c(H, F). Lambda r(H, n), weights r(H, n, 2K).

    With h = dt cos(angle/2) and t = 2 sin(angle/2), every denominator is

        dt/2 (1 + w) (g - Lambda) = -exp(i angle/2) (h Lambda + i t)

    and the two members of a conjugate pair, v and v^*, add to a quotient whose parts are sums of real products:

        v/(h Lambda + i t) + v^*/(h Lambda^* + i t) = 2 (h Re(v Lambda^*) + i t Re v) / d
        d = h^2 |Lambda|^2 - t^2 + 2 i h t Re Lambda

    So n quotients serve for 2n modes, and their sums over n are real matrix products. Near a resonance the real part of
    d is a small difference, and so is what Woodbury's identity leaves of the sums: both are taken in float64. The
    quotients between them, which are most of the work, are in the working precision.
    """
    working, (size, K) = dt.dtype, (math.isqrt(weights.shape[-1] // 2), weights.shape[-1] // 2)  # size = 1 + R
    h = dt.double()[:, None, None] * torch.cos(angle / 2)[:, None]  # r(H, F, 1)
    t = 2 * torch.sin(angle / 2)[:, None]  # r(F, 1)
    square = (Lambda_re.double() ** 2 + Lambda_im.double() ** 2)[:, None]  # r(H, 1, n)
    d_re = torch.addcmul(-(t**2), h**2, square).to(working)  # r(H, F, n)
    d_im = (2 * h * t).to(working) * Lambda_re[:, None]
    from_re, from_im = (part.double() @ weights for part in _Reciprocal.apply(d_re, d_im))  # r(H, F, 2K)
    re = t * from_im[..., K:] - h * from_re[..., :K]
    im = -t * from_re[..., K:] - h * from_im[..., :K]
    sums = (2 * torch.complex(re, im)).unflatten(-1, (size, size))  # c(H, F, 1+R, 1+R)
    # Every k is h times its sum: the factors exp(i angle/2) of numerator and denominator cancel.
    h = h[..., None]
    inner = torch.eye(size - 1, dtype=sums.dtype, device=dt.device) + h * sums[..., 1:, 1:]
    correction = h * sums[..., :1, 1:] @ torch.linalg.solve(inner, sums[..., 1:, :1])
    turn = torch.polar(torch.ones_like(angle), -angle / 2)
    values = dt[:, None] * turn * (sums[..., :1, :1] - correction)[..., 0, 0]
    return (values.to(working.to_complex()),)


class _Reciprocal(torch.autograd.Function):
    """1/d of complex numbers as two real tensors; its gradient, -1/d^2, takes a fraction of autograd's own passes."""

    @staticmethod
    def forward(ctx: Any, re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.addcmul(re * re, im, im).reciprocal_()
        inverse_re, inverse_im = re * scale, im * scale.neg_()
        ctx.save_for_backward(inverse_re, inverse_im)
        return inverse_re, inverse_im

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_re: Tensor, grad_im: Tensor) -> tuple[Tensor, Tensor]:
        re, im = ctx.saved_tensors
        # With q = 1/d^2, that is (re + i im)^2, the gradient of d is -conj(q) times that of 1/d.
        q_re, q_im = torch.addcmul(re * re, im, im, value=-1), (2 * re).mul_(im)
        return (
            torch.addcmul(q_re * grad_re, q_im, grad_im).neg_(),
            torch.addcmul(q_im * grad_re, q_re, grad_im, value=-1),
        )
