"""Taps on the features of neighbouring pixels, which is a depth-wise causal convolution in two dimensions.

    y_k = sum_i w_i * u_(k at offset i)       offsets: left, above left, above, above right; zero beyond the borders

A state space layer along the raster must remember the pixel above for W steps; a tap sees it at once. Each of the D
features has four weights of its own. One step costs O(D), and the state is the last W + 1 feature vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s4gen.models.pooling import Count, take
from s4gen.models.raster import NEAREST, Raster


class _WeightedShifts(torch.autograd.Function):
    """Return sum_i weight_i * x[:, first_i : first_i + n], r(B, n, D), for x r(B, m, D), weight r(1 or B, taps, n, D).

    Autograd would make a gradient as large as x for each tap, mostly zeros, and add them up. Here all taps add to one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, firsts: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.firsts = firsts
        n = weight.shape[2]
        y = x[:, firsts[0] : firsts[0] + n] * weight[:, 0]
        for i, first in enumerate(firsts[1:], start=1):
            y.addcmul_(x[:, first : first + n], weight[:, i])
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        n, into_x, into_weight = weight.shape[2], torch.zeros_like(x), []
        for i, first in enumerate(ctx.firsts):
            into_x[:, first : first + n].addcmul_(gradient, weight[:, i])
            product = gradient * x[:, first : first + n]
            into_weight.append(product.sum(0, keepdim=True) if len(weight) == 1 else product)
        return into_x, torch.stack(into_weight, dim=1), None


class TapsState(NamedTuple):
    """The state of taps between two pixels."""

    position: Tensor  # int64 (B,): pixels read so far
    last: Tensor  # r(B, W + 1, D): the features of the last ones, the oldest first, zeros before the first


class Taps(nn.Module):
    """The layer of taps; its methods are those of every sequence module, its inputs pixels in raster order."""

    def __init__(self, d_model: int, raster: Raster) -> None:
        super().__init__()
        self.raster = raster
        self.distances = [raster.distance(offset) for offset in NEAREST]
        self.weight = nn.Parameter(0.02 * torch.randn(len(NEAREST), d_model))

    def initial_state(self, batch: int) -> TapsState:
        """Return the state before the first pixel of an image."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.weight.device)
        return TapsState(position, self.weight.new_zeros(batch, self.raster.width + 1, self.weight.shape[1]))

    def forward(
        self, u: Tensor, state: TapsState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, TapsState]:
        """Read n >= 1 pixels u r(B, n, D) after `state` (None: an image's start); return y r(B, n, D) and the state.

        With lengths int64 (B,), the state of a row is the one after that many of its pixels.
        """
        n, kept = u.shape[1], self.raster.width + 1
        before = self.initial_state(len(u)) if state is None else state
        start = before.position if state is not None else before.position[:1]  # one row stands for all at the start
        inside = self.raster.inside(start[:, None] + torch.arange(n, device=u.device), NEAREST)  # (1 or B, n, 4)
        known = torch.cat((before.last, u), dim=1)
        # The mask is applied to the weights, not to the features: they are smaller, and each tap stays one product.
        masked = inside.mT[..., None] * self.weight[:, None]  # (1 or B, 4, n, D)
        y: Tensor = _WeightedShifts.apply(known, masked, [kept - distance for distance in self.distances])
        read: Count = n if lengths is None else lengths
        return y, TapsState(before.position + read, take(known, read, kept).clone())

    def step(self, u: Tensor, state: TapsState) -> tuple[Tensor, TapsState]:
        """Read one pixel u r(B, D); return y r(B, D) and the new state."""
        inside = self.raster.inside(state.position, NEAREST)
        kept = self.raster.width + 1
        neighbours = state.last[:, [kept - distance for distance in self.distances]]  # (B, 4, D)
        y = (neighbours * inside[..., None] * self.weight).sum(dim=1)
        return y, TapsState(state.position + 1, torch.cat((state.last[:, 1:], u[:, None]), dim=1))
