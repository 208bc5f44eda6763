"""A state space layer that runs along each row, or down each column, of an image that is read in raster order.

Along rows, the state is reset to zero at the start of each row. Down columns, each column has its own state, which
waits W pixels for its turn and is zero at the top of each image; there are W states, and a step touches one. Either way
a step costs O(N) per feature, and sequences are no longer than a row or a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s4gen.models.raster import Raster
from s4gen.models.states import padded_rows, row_multiple


class AxialState(NamedTuple):
    """The state of an axial layer between two pixels."""

    position: Tensor  # int64 (B,): pixels read so far
    ssm: Tensor  # r(B, lanes, H, N): the state of the row (1 lane), or of each column (W lanes)


class Axial(nn.Module):
    """Run `layer` along "row" or "column"; the methods are those of every sequence module."""

    def __init__(self, layer: nn.Module, axis: str, raster: Raster) -> None:
        super().__init__()
        self.layer: Any = layer
        self.axis, self.raster = axis, raster
        self.lanes = 1 if axis == "row" else raster.width

    def initial_state(self, batch: int) -> AxialState:
        """Return zeros, which is the state at the start of an image."""
        ssm = self.layer.initial_state(batch * self.lanes).unflatten(0, (batch, self.lanes))
        return AxialState(torch.zeros(batch, dtype=torch.int64, device=ssm.device), ssm)

    def forward(
        self, u: Tensor, state: AxialState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, AxialState]:
        """Read n >= 1 pixels u r(B, n, H) after `state` (None: an image's start); return y r(B, n, H) and the state.

        With lengths int64 (B,), rows of the batch end after that many pixels. Rows at the same position that end
        together are computed together, padded to a number of rows for which each row has the same bits as alone.
        """
        before = self.initial_state(len(u)) if state is None else state
        n = u.shape[1]
        if lengths is None and (state is None or (before.position == before.position[:1]).all()):
            y, ssm = self._read(u, 0 if state is None else int(before.position[0]), before.ssm)
            return y, AxialState(before.position + n, ssm)
        counts = torch.full_like(before.position, n) if lengths is None else lengths
        y, ssm = torch.zeros_like(u), before.ssm.clone()
        for position, count in torch.stack((before.position, counts), dim=1).unique(dim=0).tolist():
            rows = torch.nonzero((before.position == position) & (counts == count))[:, 0]
            if count:
                padded = rows[padded_rows(len(rows), row_multiple(ssm.shape[-1]), u.device)]
                part, new = self._read(u[padded, :count], position, before.ssm[padded])
                y[rows, :count], ssm[rows] = part[: len(rows)], new[: len(rows)]
        return y, AxialState(before.position + counts, ssm)

    def _read(self, u: Tensor, position: int, ssm: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layer on pixels u r(B, n, H), the first of which is at `position`, from ssm r(B, lanes, H, N)."""
        parts = []
        for begin, count in self._segments(position, u.shape[1]):
            part = u[:, begin : begin + count]
            run = self._along_rows if self.axis == "row" else self._down_columns
            y, ssm = run(part, position + begin, ssm)
            parts.append(y)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), ssm

    def _segments(self, position: int, n: int) -> Iterator[tuple[int, int]]:
        """Cut n pixels from `position` on into parts of one row and whole rows of one image, as (begin, count)."""
        width, begin = self.raster.width, 0
        while begin < n:
            column = (position + begin) % width
            rows_left = self.raster.height - (position + begin) // width % self.raster.height
            whole = min((n - begin) // width, rows_left) * width
            count = whole if whole and not column else min(n - begin, width - column)
            yield begin, count
            begin += count

    def _along_rows(self, u: Tensor, position: int, ssm: Tensor) -> tuple[Tensor, Tensor]:
        """Run along rows over a part of one row, or over whole rows, which then become rows of the batch."""
        n_batch, n, H = u.shape
        width = min(n, self.raster.width)
        entering = None if position % self.raster.width == 0 else ssm[:, 0]
        y, after = self.layer(u.reshape(n_batch * (n // width), width, H), entering)
        return y.reshape(n_batch, n, H), after.unflatten(0, (n_batch, -1))[:, -1:]

    def _down_columns(self, u: Tensor, position: int, ssm: Tensor) -> tuple[Tensor, Tensor]:
        """Run down columns over a part of one row, or over whole rows, each column from its own state."""
        n_batch, n, H = u.shape
        width, first = min(n, self.raster.width), position % self.raster.width
        lanes = slice(first, first + width)
        by_column = u.unflatten(1, (n // width, width)).transpose(1, 2).flatten(0, 1)
        entering = None if position % self.raster.pixels < self.raster.width else ssm[:, lanes].flatten(0, 1)
        y, after = self.layer(by_column, entering)
        y = y.unflatten(0, (n_batch, width)).transpose(1, 2).reshape(n_batch, n, H)
        after = after.unflatten(0, (n_batch, width))
        return y, after if width == self.raster.width else torch.cat((ssm[:, :first], after, ssm[:, lanes.stop :]), 1)

    def step(self, u: Tensor, state: AxialState) -> tuple[Tensor, AxialState]:
        """Read one pixel u r(B, H); return y r(B, H) and the new state."""
        rows, column = torch.arange(u.shape[0], device=u.device), state.position % self.raster.width
        if self.axis == "row":
            lane, fresh = torch.zeros_like(column), column == 0
        else:
            lane, fresh = column, state.position % self.raster.pixels < self.raster.width
        entering = torch.where(fresh[:, None, None], 0, state.ssm[rows, lane])
        y, after = self.layer.step(u, entering)
        ssm = state.ssm.clone()
        ssm[rows, lane] = after
        return y, AxialState(state.position + 1, ssm)
