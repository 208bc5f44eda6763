"""Rows of states, whatever the structure around their tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 4
"""Of so many rows, and multiples of it, PyTorch's products on a CPU give each row the same bits (measured: of other
small numbers they do not)."""
_SMALL_PRODUCT = 400
"""PyTorch rounds a batched matrix product of fewer multiplications than this in another way."""


def row_multiple(d_state: int) -> int:
    """Rows are read in multiples of this, so that no product with a matrix of d_state rows and columns is small."""
    return _ROWS * -(-_SMALL_PRODUCT // (_ROWS * d_state**2))


def padded_rows(n: int, multiple: int, device: torch.device | None = None) -> Tensor:
    """Rows 0 .. n - 1, and the last again up to a multiple of `multiple`: int64 (R,)."""
    return torch.arange(-(-n // multiple) * multiple, device=device).clamp_max(n - 1)


def where_rows(rows: Tensor, new: Any, old: Any) -> Any:
    """The state whose rows are those of `new` where rows (B,) bool says so, and those of `old` elsewhere."""
    if not isinstance(new, tuple):  # what no row has changed is the same object in both; so is a number
        return old if new is old or not isinstance(new, Tensor) else _where(rows, new, old)
    parts = [where_rows(rows, a, b) for a, b in zip(new, old, strict=True)]
    return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (new.dim() - 1)), new, old)
