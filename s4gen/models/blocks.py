"""Pre-norm residual blocks around a sequence mixer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.config import ModelConfig, SSMConfig
from s4gen.models.ancestors import DSS, LSSL
from s4gen.models.attention import CausalAttention
from s4gen.models.h3 import H3
from s4gen.models.ssm_layers import S4, S4D

SSM_MIXERS = {"s4d": S4D, "s4": S4, "dss": DSS, "lssl": LSSL}
"""State space layers: each feature by itself, so that a block mixes them afterwards."""
State = Any  # whatever the mixer's state is: a pytree of tensors


class GatedOutput(nn.Module):
    """GELU -> dropout -> GLU: mixes features after a state space layer, which has none of that."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, 2 * d_model)

    def forward(self, y: Tensor) -> Tensor:
        return F.glu(self.linear(self.dropout(F.gelu(y))), dim=-1)


class FeedForward(nn.Module):
    """LayerNorm -> linear -> GELU -> dropout -> linear."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, d_ff)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(self.norm(x)))))


class Block(nn.Module):
    """x + output(mixer(norm x)), then x + feed_forward(x) where d_ff > 0."""

    def __init__(self, model: ModelConfig, ssm: SSMConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model.d_model)
        self.mixer: nn.Module
        self.output: nn.Module
        if model.mixer == "attention":
            self.mixer = CausalAttention(model.d_model, model.n_heads, model.window)
            self.output = nn.Identity()
        elif model.mixer == "h3":
            self.mixer = H3(model.d_model, ssm)
            self.output = nn.Identity()
        else:
            self.mixer = SSM_MIXERS[model.mixer](model.d_model, ssm)
            self.output = GatedOutput(model.d_model, model.dropout)
        self.dropout = nn.Dropout(model.dropout)
        self.feed_forward = FeedForward(model.d_model, model.d_ff, model.dropout) if model.d_ff else None

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.output(mixed))
        if self.feed_forward is None:
            return x
        return x + self.dropout(self.feed_forward(x))

    def forward(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """x r(B, L, H) -> r(B, L, H) and the state after the last input, or after `lengths` inputs of each row."""
        mixed, state = self.mixer(self.norm(x), state, lengths)
        return self._finish(x, mixed), state

    def initial_state(self, batch: int) -> State:
        return self.mixer.initial_state(batch)  # type: ignore[operator]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x r(B, H) -> r(B, H) and the new state."""
        mixed, state = self.mixer.step(self.norm(x), state)  # type: ignore[operator]
        return self._finish(x, mixed), state


def make_blocks(model: ModelConfig, ssm: SSMConfig) -> Iterator[Block]:
    """The stack: `n_layers` times `mixers` sequence layers, of which the last one has the feed-forward."""
    without = replace(model, d_ff=0)
    for i in range(model.n_layers * model.mixers):
        yield Block(without if (i + 1) % model.mixers else model, ssm)
