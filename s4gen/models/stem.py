"""The stem of whole-pixel models: it turns the neighbours of a pixel, and where it stands, into the stack's input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import ImageLayout
from s4gen.models.mixture import median_edge
from s4gen.models.raster import ABOVE, ABOVE_LEFT, ABOVE_RIGHT, LEFT, NEAREST, Raster, neighbourhood


class PixelStem(nn.Module):
    """x_k = linear(neighbours of pixel k) + row + column, plus rows of tables for the nearest values and for the label.

    The neighbours are all channels of the earlier pixels in `raster.neighbourhood`, as numbers from -1 to 1, each with
    a flag that is 1 inside of the image; beyond its borders everything is 0. With `symbols` there are tables for the
    exact values at left, above left, above and above right, because a number from -1 to 1 says only roughly whether
    two values are the same.
    """

    def __init__(self, layout: ImageLayout, d_model: int, rows: int, symbols: bool) -> None:
        super().__init__()
        self.layout = layout
        self.raster = Raster(layout.height, layout.width)
        self.offsets = neighbourhood(rows, layout.width)
        self.nearest = tuple(offset for offset in NEAREST if offset != ABOVE_RIGHT or layout.width > 1)
        self.history = max(map(self.raster.distance, (*self.offsets, *self.nearest)))
        """The number of pixels before the present one that have to be known."""
        self.linear = nn.Linear(len(self.offsets) * (layout.channels + 1), d_model)
        self.row = nn.Embedding(layout.height, d_model)
        self.column = nn.Embedding(layout.width, d_model)
        values = len(self.nearest) * layout.channels * layout.levels
        self.value = nn.Embedding(values, d_model) if symbols else None
        self.label = nn.Embedding(len(layout.classes), d_model) if layout.classes else None
        for table in (self.row, self.column, self.value, self.label):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1)

    def forward(self, pixels: Tensor, position: Tensor, label: Tensor | tuple[()] = ()) -> tuple[Tensor, Tensor]:
        """Return the stack's input for n pixels, r(B, n, D), and a prediction of each channel, r(B, n, C).

        Args:
            pixels: int64 (B, history + n - 1, C), the `history` pixels before the first of the n, then all but the last
                one of them.
            position: int64 (B or 1, n), where the n pixels stand.
            label: int64 (B,), if there are classes.
        """
        n = pixels.shape[1] - self.history + 1
        amplitude = pixels.to(self.linear.weight.dtype) * (2 / (self.layout.levels - 1)) - 1
        known = torch.cat((amplitude, torch.ones_like(amplitude[..., :1])), dim=-1)  # (B, .., C + 1)

        def at(values: Tensor, offset: tuple[int, int]) -> Tensor:
            return values[:, self.history - self.raster.distance(offset) :][:, :n]

        inside = self.raster.inside(position, self.offsets)
        neighbours = torch.stack([at(known, offset) for offset in self.offsets], dim=2) * inside[..., None]
        x = self.linear(neighbours.flatten(2)).to(known.dtype)
        position = position % self.raster.pixels
        x = x + self.row(position // self.layout.width) + self.column(position % self.layout.width)
        if self.value is not None:
            near = torch.stack([at(pixels, offset) for offset in self.nearest], dim=2)  # (B, n, nearest, C)
            near = near.clamp_max(self.layout.levels - 1)  # bos, the first token fed, has no value
            table = self.layout.levels * torch.arange(near[0, 0].numel(), device=pixels.device).view_as(near[0, 0])
            shown = self.raster.inside(position, self.nearest)
            x = x + (self.value(near + table).sum(3) * shown[..., None]).sum(2)
        if self.label is not None and isinstance(label, Tensor):
            x = x + self.label(label)[:, None]
        return x, self._predict(at(amplitude, LEFT), at(amplitude, ABOVE), at(amplitude, ABOVE_LEFT), position)

    def _predict(self, left: Tensor, above: Tensor, above_left: Tensor, position: Tensor) -> Tensor:
        """Predict by `median_edge`; at the border, where not all three are known, by the one that is, else by 0."""
        top, first = (position < self.layout.width)[..., None], (position % self.layout.width == 0)[..., None]
        inner = median_edge(left, above, above_left)
        return torch.where(top, torch.where(first, 0, left), torch.where(first, above, inner))
