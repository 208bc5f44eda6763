"""Taps on the features of neighbouring pixels: a depth-wise causal convolution in two dimensions.

    y_k = sum_i w_i * u_(k at offset i)       offsets: left, above left, above, above right; zero beyond the borders

A state space layer along the raster needs W steps to see the pixel above; a tap sees it at once. Each of the D features
has its own four weights. One step costs O(D); what has to be kept is the last W + 1 feature vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from s4gen.models.pooling import Count, take
from s4gen.models.raster import ABOVE, ABOVE_LEFT, ABOVE_RIGHT, LEFT, Raster

OFFSETS = (LEFT, ABOVE_LEFT, ABOVE, ABOVE_RIGHT)


class TapsState(NamedTuple):
    """What is kept from pixel to pixel."""

    place: Tensor  # int64 (B,): pixels read so far
    last: Tensor  # r(B, W + 1, D): the features of the last ones, the oldest first, zeros before the first


class Taps(nn.Module):
    """The layer, with the three methods of every sequence module; its inputs are pixels in raster order."""

    def __init__(self, d_model: int, raster: Raster) -> None:
        super().__init__()
        self.raster = raster
        self.distances = [raster.distance(offset) for offset in OFFSETS]
        self.weight = nn.Parameter(0.02 * torch.randn(len(OFFSETS), d_model))

    def initial_state(self, batch: int) -> TapsState:
        """Before the first pixel of an image."""
        place = torch.zeros(batch, dtype=torch.int64, device=self.weight.device)
        return TapsState(place, self.weight.new_zeros(batch, self.raster.width + 1, self.weight.shape[1]))

    def forward(
        self, u: Tensor, state: TapsState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, TapsState]:
        """u r(B, n, D), n >= 1 pixels, after `state` (None: at an image's start); returns y r(B, n, D) and the state.

        With lengths int64 (B,), rows end after that many pixels: the state of a row is the one there.
        """
        n, kept = u.shape[1], self.raster.width + 1
        before = self.initial_state(len(u)) if state is None else state
        start = before.place[:1] if state is None else before.place  # without a state all rows are at the same place
        inside = self.raster.inside(start[:, None] + torch.arange(n, device=u.device), OFFSETS)  # (1 or B, n, 4)
        known = torch.cat((before.last, u), dim=1)
        y = torch.zeros_like(u)
        for i, distance in enumerate(self.distances):
            # The mask goes to the weights, which are smaller than the features: one product for each tap is enough.
            y = torch.addcmul(y, known[:, kept - distance :][:, :n], inside[..., i, None] * self.weight[i])
        read: Count = n if lengths is None else lengths
        return y, TapsState(before.place + read, take(known, read, kept).clone())

    def step(self, u: Tensor, state: TapsState) -> tuple[Tensor, TapsState]:
        """One pixel: u r(B, D), state -> y r(B, D), new state."""
        inside = self.raster.inside(state.place, OFFSETS)
        kept = self.raster.width + 1
        neighbours = state.last[:, [kept - distance for distance in self.distances]]  # (B, 4, D)
        y = (neighbours * inside[..., None] * self.weight).sum(dim=1)
        return y, TapsState(state.place + 1, torch.cat((state.last[:, 1:], u[:, None]), dim=1))
