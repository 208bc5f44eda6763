"""Residual blocks: a sequence mixer, a feed-forward, norms, and the sums around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.config import ModelConfig, SSMConfig
from s4gen.models.axial import Axial
from s4gen.models.mixers import make_mixer
from s4gen.models.norms import make_norm
from s4gen.models.raster import Raster
from s4gen.models.taps import Taps, TapsState

State = Any  # whatever the mixer's state is, see s4gen.models.states


class TappedState(NamedTuple):
    """The state of a block with taps."""

    taps: TapsState
    mixer: State


class Skip(nn.Module):
    """The mixer of a block with taps alone: y = D * u, like the skip of a state space layer, without a state."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.ones(d_model))

    def initial_state(self, batch: int) -> tuple[()]:
        return ()

    def forward(self, u: Tensor, state: State = None, lengths: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        """Return D * u for u r(..., D); `lengths` do not matter to a layer without a state."""
        return self.D * u, ()

    def step(self, u: Tensor, state: State) -> tuple[Tensor, tuple[()]]:
        """Return D * u for u r(B, D)."""
        return self.forward(u)


class GatedOutput(nn.Module):
    """GELU, dropout and GLU behind a state space layer, which is linear and treats each feature by itself."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, 2 * d_model)

    def forward(self, y: Tensor) -> Tensor:
        return F.glu(self.linear(self.dropout(F.gelu(y))), dim=-1)


class FeedForward(nn.Module):
    """Linear, GELU, dropout, linear. It owns a norm, which the block applies before or behind it."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.norm = make_norm(model)
        self.up = nn.Linear(model.d_model, model.d_ff)
        self.dropout = nn.Dropout(model.dropout)
        self.down = nn.Linear(model.d_ff, model.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class Block(nn.Module):
    """One residual block, with the methods of every sequence module.

        x <- x + output(mixer(norm x) + taps(norm x))        taps on images only
        x <- x + feed_forward(norm x)                        if d_ff > 0

    With model.norm = "post" the norms stand behind the sums: norm(x + output(mixer(x))).
    """

    def __init__(self, model: ModelConfig, ssm: SSMConfig, raster: Raster | None = None, scan: str = "raster") -> None:
        """Build a block. For images read pixel by pixel, `raster` is their size and `scan` the path of the mixer."""
        super().__init__()
        self.norm = make_norm(model)
        self.norm_first = model.norm == "pre"
        self.mixer = make_scanned(model, ssm, raster, scan)
        self.output: nn.Module = nn.Identity()
        if not model.traits.mixes_features:
            self.output = GatedOutput(model.d_model, model.dropout)
        self.taps: Any = Taps(model.d_model, raster) if raster is not None and model.taps else None
        self.dropout = nn.Dropout(model.dropout)
        self.feed_forward = FeedForward(model) if model.d_ff else None
        if model.zero_start:
            self._start_at_zero()

    @torch.no_grad()
    def _start_at_zero(self) -> None:
        """Let both sublayers add nothing at first: zero the value half of a GLU, else the last matrix.

        Otherwise the random features of the blocks drown what the stem says, and hundreds of steps are lost.
        """
        last = [self.feed_forward.down] if self.feed_forward is not None else []
        if not isinstance(self.output, GatedOutput):
            last.append(self.mixer.out)
        for linear in last:
            linear.weight.zero_(), linear.bias.zero_()
        if isinstance(self.output, GatedOutput):
            for parameter in self.output.linear.parameters():
                parameter[: len(parameter) // 2].zero_()

    def _finish(self, x: Tensor, mixed: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.output(mixed))
        if not self.norm_first:
            x = self.norm(x, lengths)
        if self.feed_forward is None:
            return x
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.feed_forward.norm(x, lengths)))
        return self.feed_forward.norm(x + self.dropout(self.feed_forward(x)), lengths)

    def forward(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Read x r(B, L, H); return r(B, L, H) and the state after the last input, or after `lengths` of each row."""
        u = self.norm(x, lengths) if self.norm_first else x
        if self.taps is None:
            mixed, state = self.mixer(u, state, lengths)
            return self._finish(x, mixed, lengths), state
        taps, mixer = (None, None) if state is None else state
        mixed, mixer = self.mixer(u, mixer, lengths)
        tapped, taps = self.taps(u, taps, lengths)
        return self._finish(x, mixed + tapped, lengths), TappedState(taps, mixer)

    def initial_state(self, batch: int) -> State:
        mixer = self.mixer.initial_state(batch)
        return mixer if self.taps is None else TappedState(self.taps.initial_state(batch), mixer)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one input x r(B, H); return r(B, H) and the new state."""
        u = self.norm(x) if self.norm_first else x
        if self.taps is None:
            mixed, state = self.mixer.step(u, state)
            return self._finish(x, mixed), state
        mixed, mixer = self.mixer.step(u, state.mixer)
        tapped, taps = self.taps.step(u, state.taps)
        return self._finish(x, mixed + tapped), TappedState(taps, mixer)


def scan_of(model: ModelConfig, i: int) -> str:
    """Return the path of sequence layer i of the stack; the entries of `model.scan` are dealt out in turn."""
    return model.scan[i % len(model.scan)]


def make_scanned(model: ModelConfig, ssm: SSMConfig, raster: Raster | None, scan: str) -> Any:
    """Make the sequence layer of one block, which runs along the path `scan` of images that `raster` is the size of."""
    if scan == "none":
        return Skip(model.d_model)
    layer = make_mixer(model, ssm)
    return layer if scan == "raster" or raster is None else Axial(layer, scan, raster)


def make_blocks(model: ModelConfig, ssm: SSMConfig, raster: Raster | None = None) -> Iterator[Block]:
    """Yield the stack: n_layers times mixers_per_block sequence layers, the last of each group with a feed-forward.

    For images read pixel by pixel, `raster` is their size, and `model.scan` says along which lines each layer runs.
    """
    without = replace(model, d_ff=0)
    for i in range(model.n_layers * model.mixers_per_block):
        yield Block(without if (i + 1) % model.mixers_per_block else model, ssm, raster, scan_of(model, i))
