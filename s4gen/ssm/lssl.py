"""LSSL: a dense state matrix, discretised by a dense inverse, its kernel by a Krylov matrix; the ancestor of S4.

Source: LSSL (arXiv 2110.13985). Nothing here uses any structure of A, which is the point. All L Krylov vectors are
formed, by doubling: O(H N^2 (N log L + L)) work, O(H N (N log L + L)) memory with gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4gen.ssm.blocks import fft_convolve
from s4gen.ssm.dplr import doublings, krylov_vectors


def discretize(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Abar r(H, N, N) and Bbar r(H, N) by the bilinear rule, in float64, from B r(H, N), dt r(H).

    A is r(H, N, N), or r(1, N, N) for all heads. Abar = (I - dt/2 A)^-1 (I + dt/2 A) = 2 (I - dt/2 A)^-1 - I and
    Bbar = dt (I - dt/2 A)^-1 B.
    """
    A, B, dt = A.double(), B.double(), dt.double()
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    inverse = torch.linalg.inv(identity - dt[:, None, None] / 2 * A)
    return 2 * inverse - identity, dt[:, None] * (inverse @ B[..., None])[..., 0]


def kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    """Convolution kernel K[l] = C Abar^l Bbar, r(H, L), from C r(H, N)."""
    return (C[:, None, :] @ krylov_vectors(doublings(A_bar, L), B_bar, L))[:, 0]


def convolve(u: Tensor, A_bar: Tensor, B_bar: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Causal convolution of u r(B, L, H) from state r(B, H, N) (None: zeros); returns y r(B, L, H) and the last state.

    y = u * K by FFT, with C Abar^(l+1) x_0 added for a state.
    """
    L = u.shape[1]
    powers = doublings(A_bar, L)
    vectors = krylov_vectors(powers, B_bar, L)
    y = fft_convolve(u, (C[:, None, :] @ vectors)[:, 0])
    final = torch.einsum("hnl,blh->bhn", vectors.flip(-1), u)
    if state is not None:
        rows = krylov_vectors([power.transpose(1, 2) for power in powers], (C[:, None, :] @ A_bar)[:, 0], L)
        y = y + torch.einsum("hnl,bhn->blh", rows, state)
        final = final + _advance(powers, state, L)
    return y, final


def _advance(powers: list[Tensor], x: Tensor, L: int) -> Tensor:
    """Abar^L x for x r(B, H, N), from `doublings(Abar, L)`."""
    for i in reversed(range(len(powers))):
        for _ in range(L >> i):
            x = torch.einsum("hnm,bhm->bhn", powers[i], x)
        L %= 2**i
    return x


def step(A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One recurrent step: x' = Abar x + Bbar u, y = C x'. u r(B, H), x r(B, H, N); O(N^2) per head."""
    x = torch.einsum("hnm,bhm->bhn", A_bar, x) + B_bar * u[..., None]
    return (x * C).sum(-1), x
