"""A small and plain WaveNet (arXiv 1609.03499), the baseline for sound, with the methods of every sequence module."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.models.pooling import Count, take


class WaveNetState(NamedTuple):
    """The last inputs of every layer in rings: the input at position t stands in slot t mod (dilation + 1)."""

    position: Tensor  # int64 (B,): inputs so far
    rings: tuple[Tensor, ...]  # r(B, dilation + 1, H) for each layer


class GatedConvolution(nn.Module):
    """tanh(a) sigmoid(b) with a, b = linear(x_(t-dilation), x_t) (section 2.3); it gives the next input and a skip."""

    def __init__(self, d_model: int, d_skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.taps = nn.Linear(2 * d_model, 2 * d_model)
        self.residual = nn.Linear(d_model, d_model)
        self.skip = nn.Linear(d_model, d_skip)

    def forward(self, past: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next input r(..., H) and a skip r(..., d_skip), from past and x r(..., H)."""
        signal, gate = self.taps(torch.cat((past, x), dim=-1)).chunk(2, dim=-1)
        gated = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.residual(gated), self.skip(gated)


class WaveNet(nn.Module):
    """Residual layers of two taps, dilated by 1, 2, .., 2^(cycle - 1), 1, 2, ..; y = x + linear(ReLU(sum of skips)).

    x is the output of the last layer. The paper drops it; adding it leaves no weight idle. Norm and head are those of
    the density model.
    """

    def __init__(self, d_model: int, n_layers: int, d_skip: int, cycle: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedConvolution(d_model, d_skip, 2 ** (i % cycle)) for i in range(n_layers))
        self.out = nn.Linear(d_skip, d_model)

    def initial_state(self, batch: int) -> WaveNetState:
        """Return zeros, which stand before the first input."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.out.weight.device)
        width = self.out.out_features
        rings = (self.out.weight.new_zeros(batch, layer.dilation + 1, width) for layer in self._layers())
        return WaveNetState(position, tuple(rings))

    def forward(
        self, x: Tensor, state: WaveNetState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, WaveNetState]:
        """Read x r(B, L, H) after `state` (None: the start); return y r(B, L, H) and the state after x.

        With lengths int64 (B,), rows end after that many inputs. The state passed in is left as it was.
        """
        state = self.initial_state(len(x)) if state is None else state
        read: Count = x.shape[1] if lengths is None else lengths
        position, rings, skips = state.position + read, [], x.new_zeros(*x.shape[:-1], self.out.in_features)
        for layer, ring in zip(self._layers(), state.rings, strict=True):
            known = torch.cat((ring.gather(1, _slots(state.position, ring)), x), dim=1)
            rings.append(torch.zeros_like(ring).scatter(1, _slots(position, ring), take(known, read, layer.dilation)))
            x, skip = layer(known[:, : x.shape[1]], x)
            skips = skips + skip
        return x + self.out(F.relu(skips)), WaveNetState(position, tuple(rings))

    def step(self, x: Tensor, state: WaveNetState) -> tuple[Tensor, WaveNetState]:
        """Read one input r(B, H); return y r(B, H) and the new state.

        Unlike in other modules the state is used up: x is written into its rings, so a state can be continued only
        once. A copy per step would make the baseline slower than it is.
        """
        rows, skips = torch.arange(len(x), device=x.device), x.new_zeros(len(x), self.out.in_features)
        for layer, ring in zip(self._layers(), state.rings, strict=True):
            # The slot of position - dilation, since a ring has dilation + 1 slots.
            past = ring[rows, (state.position + 1) % ring.shape[1]]
            ring[rows, state.position % ring.shape[1]] = x
            x, skip = layer(past, x)
            skips = skips + skip
        return x + self.out(F.relu(skips)), WaveNetState(state.position + 1, state.rings)

    def _layers(self) -> list[GatedConvolution]:
        return [layer for layer in self.layers if isinstance(layer, GatedConvolution)]


def _slots(position: Tensor, ring: Tensor) -> Tensor:
    """Return the slots of the inputs before `position` in a ring r(B, d + 1, H), the oldest first: int64 (B, d, H)."""
    size = ring.shape[1]
    slots = (position[:, None] + torch.arange(1, size, device=position.device)) % size
    return slots[..., None].expand(-1, -1, ring.shape[2])
