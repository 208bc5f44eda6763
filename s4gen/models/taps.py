"""Taps on the features of neighbouring pixels: a depth-wise causal convolution in two dimensions.

    y_k = sum_i w_i * u_(k at offset i)       offsets: left, above left, above, above right; zero beyond the borders

A state space layer along the raster needs W steps to see the pixel above; a tap sees it at once. Each of the D features
has its own four weights. One step costs O(D); what has to be kept is the last W + 1 feature vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s4gen.models.pooling import Count, take
from s4gen.models.raster import NEAREST, Raster


class _WeightedShifts(torch.autograd.Function):
    """sum_i weight_i * x[:, first_i : first_i + n] for x r(B, m, D), weight r(1 or B, taps, n, D): r(B, n, D).

    Autograd would make a gradient as large as x for each tap, mostly of zeros, and add them up; here all taps write
    into one.
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
    """What is kept from pixel to pixel."""

    position: Tensor  # int64 (B,): pixels read so far
    last: Tensor  # r(B, W + 1, D): the features of the last ones, the oldest first, zeros before the first


class Taps(nn.Module):
    """The layer, with the three methods of every sequence module; its inputs are pixels in raster order."""

    def __init__(self, d_model: int, raster: Raster) -> None:
        super().__init__()
        self.raster = raster
        self.distances = [raster.distance(offset) for offset in NEAREST]
        self.weight = nn.Parameter(0.02 * torch.randn(len(NEAREST), d_model))

    def initial_state(self, batch: int) -> TapsState:
        """Before the first pixel of an image."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.weight.device)
        return TapsState(position, self.weight.new_zeros(batch, self.raster.width + 1, self.weight.shape[1]))

    def forward(
        self, u: Tensor, state: TapsState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, TapsState]:
        """u r(B, n, D), n >= 1 pixels, after `state` (None: at an image's start); returns y r(B, n, D) and the state.

        With lengths int64 (B,), rows end after that many pixels: the state of a row is the one there.
        """
        n, kept = u.shape[1], self.raster.width + 1
        before = self.initial_state(len(u)) if state is None else state
        start = (
            before.position[:1] if state is None else before.position
        )  # without a state all rows are at the same position
        inside = self.raster.inside(start[:, None] + torch.arange(n, device=u.device), NEAREST)  # (1 or B, n, 4)
        known = torch.cat((before.last, u), dim=1)
        # The mask goes to the weights, which are smaller than the features: one product for each tap is enough.
        masked = inside.mT[..., None] * self.weight[:, None]  # (1 or B, 4, n, D)
        y: Tensor = _WeightedShifts.apply(known, masked, [kept - distance for distance in self.distances])
        read: Count = n if lengths is None else lengths
        return y, TapsState(before.position + read, take(known, read, kept).clone())

    def step(self, u: Tensor, state: TapsState) -> tuple[Tensor, TapsState]:
        """One pixel: u r(B, D), state -> y r(B, D), new state."""
        inside = self.raster.inside(state.position, NEAREST)
        kept = self.raster.width + 1
        neighbours = state.last[:, [kept - distance for distance in self.distances]]  # (B, 4, D)
        y = (neighbours * inside[..., None] * self.weight).sum(dim=1)
        return y, TapsState(state.position + 1, torch.cat((state.last[:, 1:], u[:, None]), dim=1))
