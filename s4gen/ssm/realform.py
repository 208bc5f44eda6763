"""Conjugate-pair vectors as real vectors, so that every product with the state is a real product.

x in c(..., n) becomes [Re x, Im x] in r(..., N); a row vector C becomes [2 Re C, -2 Im C], because
2 Re(sum C x) = sum (2 Re C)(Re x) + sum (-2 Im C)(Im x).
"""

from __future__ import annotations

import torch
from torch import Tensor


def column(x: Tensor) -> Tensor:
    """State-like vector c(..., n) -> r(..., N)."""
    return torch.cat((x.real, x.imag), dim=-1)


def row(c: Tensor) -> Tensor:
    """Output-like vector c(..., n) -> r(..., N) such that row(c) . column(x) = 2 Re(sum c x)."""
    return torch.cat((2 * c.real, -2 * c.imag), dim=-1)


def column_to_complex(x: Tensor) -> Tensor:
    """r(..., N) -> c(..., n), inverse of `column`."""
    re, im = x.chunk(2, dim=-1)
    return torch.complex(re.contiguous(), im.contiguous())


def row_to_complex(c: Tensor) -> Tensor:
    """r(..., N) -> c(..., n), inverse of `row`."""
    re, im = c.chunk(2, dim=-1)
    return torch.complex((re / 2).contiguous(), (-im / 2).contiguous())


def diagonal_matrix(a: Tensor) -> Tensor:
    """Multiplication by a real-form diagonal r(..., N), as `multiply`, written as a matrix r(..., N, N)."""
    re, im = (torch.diag_embed(half) for half in a.chunk(2, dim=-1))
    return torch.cat((torch.cat((re, -im), dim=-1), torch.cat((im, re), dim=-1)), dim=-2)


def multiply(a: Tensor, x: Tensor) -> Tensor:
    """Multiplication of a real-form vector x r(..., N) by a real-form diagonal a r(..., N): complex product."""
    a_re, a_im = a.chunk(2, dim=-1)
    x_re, x_im = x.chunk(2, dim=-1)
    return torch.cat((a_re * x_re - a_im * x_im, a_im * x_re + a_re * x_im), dim=-1)
