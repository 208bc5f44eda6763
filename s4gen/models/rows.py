"""Rows of states, whatever the structure around their tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def where_rows(rows: Tensor, new: Any, old: Any) -> Any:
    """The state whose rows are those of `new` where rows (B,) bool says so, and those of `old` elsewhere."""
    if not isinstance(new, tuple):  # what no row has changed is the same object in both; so is a number
        return old if new is old or not isinstance(new, Tensor) else _where(rows, new, old)
    parts = [where_rows(rows, a, b) for a, b in zip(new, old, strict=True)]
    return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (new.dim() - 1)), new, old)
