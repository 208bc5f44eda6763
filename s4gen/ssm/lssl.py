"""LSSL: a dense state matrix, discretised by a dense inverse, its kernel by a Krylov matrix; the ancestor of S4.

Source: LSSL (arXiv 2110.13985). Nothing here uses any structure of A, which is the point. For the kernel all L Krylov
vectors are formed, by doubling: O(H N^2 (N log L + L)) work, O(H N (N log L + L)) memory with gradients. The block form
needs those of one block, and so is far cheaper than LSSL was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4gen.ssm.block_form import BlockMaps
from s4gen.ssm.krylov import doublings, krylov_vectors, power


def discretize(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Abar r(H, N, N) and Bbar r(H, N) by the bilinear rule, in float64, from B r(H, N), dt r(H).

    A is r(H, N, N), or r(1, N, N) for all heads. Abar = (I - dt/2 A)^-1 (I + dt/2 A) = 2 (I - dt/2 A)^-1 - I and
    Bbar = dt (I - dt/2 A)^-1 B.
    """
    A, B, dt = A.double(), B.double(), dt.double()
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    # One head after another: torch 2.13 on several CPU threads fails for a batch of matrices of 256 rows or more.
    inverse = torch.stack([torch.linalg.inv(matrix) for matrix in identity - dt[:, None, None] / 2 * A])
    return 2 * inverse - identity, dt[:, None] * (inverse @ B[..., None])[..., 0]


def kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    """Convolution kernel K[l] = C Abar^l Bbar, r(H, L), from C r(H, N)."""
    return (C[:, None, :] @ krylov_vectors(doublings(A_bar, L), B_bar, L))[:, 0]


def block_maps(A_bar: Tensor, B_bar: Tensor, C: Tensor, T: int, last: int) -> BlockMaps:
    """Everything `block_form.block_convolve` needs for blocks of length T and a last one of length `last`.

    In the precision of C; powers in that of A_bar: squaring in float32 loses two digits where a mode is undamped.
    """
    powers, real = doublings(A_bar, T), C.dtype
    transition = power(powers, T)
    into = krylov_vectors(powers, B_bar.to(real), T)
    C_1 = (C[:, None, :] @ A_bar.to(real))[:, 0]
    return BlockMaps(
        kernel=(C[:, None, :] @ into)[:, 0],
        into_state=into.flip(-1).transpose(1, 2),
        from_state=krylov_vectors([A_k.transpose(1, 2) for A_k in powers], C_1, T),
        single=A_bar.to(real),
        transition=transition.to(real),
        last_transition=(transition if last == T else power(powers, last)).to(real),
    )


def step(A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One recurrent step: x' = Abar x + Bbar u, y = C x'. u r(B, H), x r(B, H, N); O(N^2) per head."""
    x = torch.einsum("hnm,bhm->bhn", A_bar, x) + B_bar * u[..., None]
    return (x * C).sum(-1), x
