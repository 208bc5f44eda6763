"""H3 (arXiv 2212.14052): a state space layer between two products, with which it can recall and compare.

    q, k, v = linear(u),    y = linear(q * S4D(shift(k) * v))

shift is a convolution over the last few inputs, so that k can stand for what came just before v. The state then
collects pairs of a key and a value, and q asks for the value of a key. This is what a state space layer alone lacks,
on text, beside attention.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.models.pooling import Count, take
from s4gen.models.ssm_layers import S4D

TAPS = 4
"""Length of the shift: the present input and the three before it."""


class H3State(NamedTuple):
    """The state of the layer between two inputs."""

    keys: Tensor  # r(B, TAPS - 1, H): k of the last inputs, zeros before the first
    ssm: Tensor  # r(B, H, N)


class H3(nn.Module):
    """The layer, with heads of one feature. Its output map mixes features, so none is needed behind it."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.shift = nn.Parameter(torch.randn(d_model, TAPS) / TAPS**0.5)
        self.ssm = S4D(d_model, config)
        self.out = nn.Linear(d_model, d_model)

    def initial_state(self, batch: int) -> H3State:
        """Return zeros."""
        d_model = self.out.in_features
        return H3State(self.out.weight.new_zeros(batch, TAPS - 1, d_model), self.ssm.initial_state(batch))

    def forward(self, u: Tensor, state: H3State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, H3State]:
        """Read u r(B, L, H), L >= 1, after `state` (None: zeros); return y r(B, L, H) and the state after u.

        With lengths int64 (B,), the state of a row is the one after that many of its inputs.
        """
        state = self.initial_state(len(u)) if state is None else state
        L, (q, k, v) = u.shape[1], self._heads(u)
        known = torch.cat((state.keys, k), dim=1)
        shifted = sum((known[:, TAPS - 1 - i :][:, :L] * self.shift[:, i] for i in range(TAPS)), torch.zeros_like(k))
        y, ssm = self.ssm(shifted * v, state.ssm, lengths)
        read: Count = L if lengths is None else lengths
        return self.out(q * y).to(u.dtype), H3State(take(known, read, TAPS - 1).clone(), ssm)

    def step(self, u: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        """Read one input u r(B, H); return y r(B, H) and the new state."""
        q, k, v = self._heads(u)
        known = torch.cat((state.keys, k[:, None]), dim=1)
        shifted = (known.flip(1) * self.shift.t()).sum(dim=1)
        y, ssm = self.ssm.step(shifted * v, state.ssm)
        return self.out(q * y).to(u.dtype), H3State(known[:, 1:].clone(), ssm)

    def _heads(self, u: Tensor) -> tuple[Tensor, ...]:
        """Return q, k and v, in the precision of u also under autocast, because the state accumulates them."""
        return self.qkv(u).to(u.dtype).chunk(3, dim=-1)
