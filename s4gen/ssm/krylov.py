"""Powers and Krylov vectors of dense matrices, by doubling: log2(T) products instead of T."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def doublings(A: Tensor, T: int) -> list[Tensor]:
    """Return [A, A^2, A^4, ...] up to the largest power of two below T (at least A itself)."""
    powers = [A]
    while 2 ** len(powers) < T:
        powers.append(powers[-1] @ powers[-1])
    return powers


def power(powers: list[Tensor], k: int) -> Tensor:
    """Return A^k for 1 <= k <= 2^len(powers), from the result of `doublings`."""
    if k == 2 ** len(powers):
        return powers[-1] @ powers[-1]
    return functools.reduce(torch.matmul, [power for bit, power in enumerate(powers) if k >> bit & 1])


def krylov_vectors(powers: list[Tensor], b: Tensor, T: int) -> Tensor:
    """Return [b, A b, ..., A^(T-1) b], r(H, N, T), from b r(H, N) and `doublings(A, T)`, in the precision of b."""
    vectors = b[..., None]
    for A_k in powers:
        known = vectors.shape[-1]
        if known >= T:
            break
        vectors = torch.cat((vectors, A_k.to(b.dtype) @ vectors[..., : T - known]), dim=-1)
    return vectors
