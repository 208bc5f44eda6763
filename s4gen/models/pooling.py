"""The way from one level of a multi-scale stack to the next coarser one and back.

z_k = down(x_kp .. x_kp+p-1)              one input of the coarser level for every window of p
added_kp .. added_kp+p-1 = up(z'_k-1)     its output z' comes back one window late, so that nothing looks ahead

The functions work for whole sequences and for chunks that end anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Count = int | Tensor  # one number for all rows, or int64 (B,)


class PoolState(NamedTuple):
    """The state between two chunks, in memory of its own; rows may stand at different phases of their windows."""

    last: Tensor  # r(B, p - 1, H): the inputs before the next one, zeros before the first
    pending: Tensor  # r(B, p, H): what the coarser level adds to the window under way, from its first position on


class Pool(nn.Module):
    """Linear maps from windows of `stride` inputs, H = d_model wide, to inputs W = `width` wide, and back.

    Source: SaShiMi, arXiv 2202.09729, section 4. `phase`, 0 to stride - 1, counts the inputs that the window under way
    already has.
    """

    def __init__(self, d_model: int, width: int, stride: int) -> None:
        super().__init__()
        self.d_model, self.stride = d_model, stride
        self.down = nn.Linear(stride * d_model, width)
        self.up = nn.Linear(width, stride * d_model)

    def initial_state(self, batch: int) -> PoolState:
        """Return zeros: as long as no window is full, the coarser level adds nothing."""
        bias, p = self.down.bias, self.stride
        return PoolState(bias.new_zeros(batch, p - 1, self.d_model), bias.new_zeros(batch, p, self.d_model))

    def gather(self, windows: Tensor) -> Tensor:
        """Turn windows r(..., p, H) into inputs of the coarser level r(..., W)."""
        return _linear(self.down, windows.flatten(-2))

    def scatter(self, z: Tensor) -> Tensor:
        """Turn outputs of the coarser level r(..., W) into what they add to the next windows, r(..., p, H)."""
        return _linear(self.up, z).unflatten(-1, (self.stride, self.d_model))

    def windows(self, x: Tensor, last: Tensor, phase: Count, read: Count) -> tuple[Tensor, Tensor]:
        """Return the coarser level's inputs r(B, n, W) that x r(B, L, H) completes, and the new `last`.

        Row b reads read_b positions of x, and fills (phase_b + read_b) // p windows; n is the most that any row could.
        """
        n = ((self.stride - 1 if isinstance(phase, Tensor) else phase) + x.shape[1]) // self.stride
        known = torch.cat((last, x), dim=1)
        full = take(known, self.stride - 1 - phase, n * self.stride)
        return self.gather(full.unflatten(1, (n, self.stride))), take(known, read, self.stride - 1).clone()

    def spread(self, z: Tensor, pending: Tensor, phase: Count, filled: Count, L: int) -> tuple[Tensor, Tensor]:
        """Return what the coarser level's outputs z r(B, n, W) add to L positions, r(B, L, H), and the new `pending`.

        Of the n windows, row b has filled the first filled_b.
        """
        known = torch.cat((pending, self.scatter(z).flatten(1, 2)), dim=1)
        return take(known, phase, L), take(known, filled * self.stride, self.stride).clone()


def _linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply the linear map in the precision of x, which is that of the residual stream, also under autocast.

    An imported model keeps this weight in float64, because there it is a quotient (weight normalisation).
    """
    return F.linear(x, linear.weight.to(x.dtype), linear.bias).to(x.dtype)


def take(x: Tensor, start: Count, n: int) -> Tensor:
    """Take n positions of x (B, L, ...) from `start` on; beyond the end the last position is repeated."""
    if isinstance(start, int):
        return x[:, start : start + n]
    position = (start[:, None] + torch.arange(n, device=x.device)).clamp_max(x.shape[1] - 1)
    return x.gather(1, position.view(*position.shape, *[1] * (x.dim() - 2)).expand(*position.shape, *x.shape[2:]))
