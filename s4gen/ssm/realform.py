"""Vectors of conjugate pairs as real vectors, so that every product with the state is a real product.

A state x in c(..., n) becomes the column [Re x, Im x] in r(..., N). An output vector C becomes the row
[2 Re C, -2 Im C], because

    y = 2 Re(sum C x) = sum (2 Re C)(Re x) + sum (-2 Im C)(Im x)
"""

from __future__ import annotations

import torch
from torch import Tensor


def column(x: Tensor) -> Tensor:
    """Turn a vector that transforms like the state into real form: c(..., n) -> r(..., N)."""
    # x.real and x.imag would be simpler, but the gradient of each fills a complex tensor of zeros.
    return torch.cat(torch.view_as_real(x.resolve_conj()).unbind(-1), dim=-1)


def row(c: Tensor) -> Tensor:
    """Turn an output vector into real form, c(..., n) -> r(..., N), such that row(c) . column(x) = 2 Re(sum c x)."""
    return column(2 * c.conj())


def column_to_complex(x: Tensor) -> Tensor:
    """Invert `column`: r(..., N) -> c(..., n)."""
    re, im = x.chunk(2, dim=-1)
    return torch.complex(re.contiguous(), im.contiguous())


def row_to_complex(c: Tensor) -> Tensor:
    """Invert `row`: r(..., N) -> c(..., n)."""
    re, im = c.chunk(2, dim=-1)
    return torch.complex((re / 2).contiguous(), (-im / 2).contiguous())


def multiplier(a: Tensor) -> Tensor:
    """Prepare a complex diagonal, in real form r(..., N), for `multiply`: r(2, ..., N), [re, re] and [-im, im]."""
    re, im = a.chunk(2, dim=-1)
    return torch.stack((torch.cat((re, re), dim=-1), torch.cat((-im, im), dim=-1)))


def transposed(multiplier: Tensor) -> Tensor:
    """Return the multiplier of the transposed diagonal, which acts on row vectors from the right."""
    same, cross = multiplier
    return torch.stack((same, -cross))


def multiply(multiplier: Tensor, x: Tensor) -> Tensor:
    """Multiply x r(..., N) by a complex diagonal, given as `multiplier` makes it.

    `roll` swaps the real and the imaginary half. That takes three passes over x; the four real products of a complex
    one, written out, take seven.
    """
    same, cross = multiplier
    return torch.addcmul(same * x, cross, x.roll(x.shape[-1] // 2, -1))


def diagonal_matrix(multiplier: Tensor) -> Tensor:
    """Return the matrix r(..., N, N) that does what `multiply` does."""
    same, cross = multiplier
    n = same.shape[-1] // 2
    upper, lower = torch.diag_embed(cross[..., :n], offset=n), torch.diag_embed(cross[..., n:], offset=-n)
    return torch.diag_embed(same) + upper + lower
