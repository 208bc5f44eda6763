"""LSSL, the ancestor of S4: a dense state matrix, discretised by a dense inverse.

Source: LSSL (arXiv 2110.13985). Nothing here uses any structure of A; that is the point of the comparison. The kernel
forms all L Krylov vectors Abar^l Bbar, by doubling, which takes O(H N^2 (N log L + L)) work and, with gradients,
O(H N (N log L + L)) memory. The block form needs only the vectors of one block, so it is far cheaper than LSSL was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4gen.ssm.block_form import BlockMaps
from s4gen.ssm.krylov import doublings, krylov_vectors, power


def discretize(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Return Abar r(H, N, N) and Bbar r(H, N) by the bilinear rule, in float64.

    A is r(H, N, N), or r(1, N, N) for all heads; B is r(H, N) and dt r(H).

        Abar = (I - dt/2 A)^-1 (I + dt/2 A) = 2 (I - dt/2 A)^-1 - I
        Bbar = dt (I - dt/2 A)^-1 B
    """
    A, B, dt = A.double(), B.double(), dt.double()
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    # One head after another: torch 2.13 on several CPU threads fails for a batch of matrices of 256 rows or more.
    inverse = torch.stack([torch.linalg.inv(matrix) for matrix in identity - dt[:, None, None] / 2 * A])
    return 2 * inverse - identity, dt[:, None] * (inverse @ B[..., None])[..., 0]


def kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, L: int) -> Tensor:
    """Return the convolution kernel K[l] = C Abar^l Bbar, r(H, L), from C r(H, N)."""
    return (C[:, None, :] @ krylov_vectors(doublings(A_bar, L), B_bar, L))[:, 0]


def block_maps(A_bar: Tensor, B_bar: Tensor, C: Tensor, T: int, last: int) -> BlockMaps:
    """Return the matrices for `block_form.block_convolve`, for blocks of length T and a last one of length `last`.

    They are in the precision of C. Powers are taken in that of A_bar, which should be float64: squaring in float32
    loses two digits if a mode is undamped.
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
    """Take one recurrent step: x' = Abar x + Bbar u, y = C x'; return y r(B, H) and x' r(B, H, N).

    u is r(B, H) and x r(B, H, N). A step costs O(N^2) per feature.
    """
    x = torch.einsum("hnm,bhm->bhn", A_bar, x) + B_bar * u[..., None]
    return (x * C).sum(-1), x
