"""Conjugate-pair vectors as real vectors, so that every product with the state is a real product.

x in c(..., n) becomes [Re x, Im x] in r(..., N); a row vector C becomes [2 Re C, -2 Im C], because
2 Re(sum C x) = sum (2 Re C)(Re x) + sum (-2 Im C)(Im x).
"""

from __future__ import annotations

import torch
from torch import Tensor


def column(x: Tensor) -> Tensor:
    """State-like vector c(..., n) -> r(..., N)."""
    # Not x.real and x.imag: the gradient of each would be a complex tensor of zeros to be filled.
    return torch.cat(torch.view_as_real(x.resolve_conj()).unbind(-1), dim=-1)


def row(c: Tensor) -> Tensor:
    """Output-like vector c(..., n) -> r(..., N) such that row(c) . column(x) = 2 Re(sum c x)."""
    return column(2 * c.conj())


def column_to_complex(x: Tensor) -> Tensor:
    """r(..., N) -> c(..., n), inverse of `column`."""
    re, im = x.chunk(2, dim=-1)
    return torch.complex(re.contiguous(), im.contiguous())


def row_to_complex(c: Tensor) -> Tensor:
    """r(..., N) -> c(..., n), inverse of `row`."""
    re, im = c.chunk(2, dim=-1)
    return torch.complex((re / 2).contiguous(), (-im / 2).contiguous())


def multiplier(a: Tensor) -> Tensor:
    """A diagonal a r(..., N) made ready to multiply with: r(2, ..., N), [re, re] and [-im, im]."""
    re, im = a.chunk(2, dim=-1)
    return torch.stack((torch.cat((re, re), dim=-1), torch.cat((-im, im), dim=-1)))


def transposed(multiplier: Tensor) -> Tensor:
    """What multiplies a row vector from the right as `multiplier` does a column from the left."""
    same, cross = multiplier
    return torch.stack((same, -cross))


def multiply(multiplier: Tensor, x: Tensor) -> Tensor:
    """Complex product of a diagonal (as `multiplier`) and x r(..., N), both in real form.

    Halves swapped by `roll`: three passes over x, where the four real products written out take seven.
    """
    same, cross = multiplier
    return torch.addcmul(same * x, cross, x.roll(x.shape[-1] // 2, -1))


def diagonal_matrix(multiplier: Tensor) -> Tensor:
    """`multiply` as a real matrix r(..., N, N)."""
    same, cross = multiplier
    n = same.shape[-1] // 2
    upper, lower = torch.diag_embed(cross[..., :n], offset=n), torch.diag_embed(cross[..., n:], offset=-n)
    return torch.diag_embed(same) + upper + lower
