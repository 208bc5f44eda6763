"""H3 (arXiv 2212.14052): a state space layer between two products, which let it recall and compare.

    q, k, v = linear(u),    y = linear(q * S4D(shift(k) * v))

shift is a convolution with the last few inputs, so that k stands for what came just before v: the state collects pairs,
and q asks for them. That is what a state space layer lacks beside attention on text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.models.pooling import Count, take
from s4gen.models.ssm_layers import S4D

TAPS = 4
"""Of the shift: the present input and the three before it."""


class H3State(NamedTuple):
    """What is kept from input to input."""

    keys: Tensor  # r(B, TAPS - 1, H): k of the last inputs, zeros before the first
    ssm: Tensor  # r(B, H, N)


class H3(nn.Module):
    """The layer, with heads of one feature; its output needs no further mixing of features."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.shift = nn.Parameter(torch.randn(d_model, TAPS) / TAPS**0.5)
        self.ssm = S4D(d_model, config)
        self.out = nn.Linear(d_model, d_model)

    def initial_state(self, batch: int) -> H3State:
        """Zeros."""
        d_model = self.out.in_features
        return H3State(self.out.weight.new_zeros(batch, TAPS - 1, d_model), self.ssm.initial_state(batch))

    def forward(self, u: Tensor, state: H3State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, H3State]:
        """u r(B, L, H), L >= 1, after `state` (None: zeros); returns y r(B, L, H) and the state after u.

        With lengths int64 (B,), rows end after that many inputs: the state of a row is the one there.
        """
        state = self.initial_state(len(u)) if state is None else state
        L, (q, k, v) = u.shape[1], self._heads(u)
        known = torch.cat((state.keys, k), dim=1)
        shifted = sum((known[:, TAPS - 1 - i :][:, :L] * self.shift[:, i] for i in range(TAPS)), torch.zeros_like(k))
        y, ssm = self.ssm(shifted * v, state.ssm, lengths)
        read: Count = L if lengths is None else lengths
        return self.out(q * y).to(u.dtype), H3State(take(known, read, TAPS - 1).clone(), ssm)

    def step(self, u: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        """One input: u r(B, H), state -> y r(B, H), new state."""
        q, k, v = self._heads(u)
        known = torch.cat((state.keys, k[:, None]), dim=1)
        shifted = (known.flip(1) * self.shift.t()).sum(dim=1)
        y, ssm = self.ssm.step(shifted * v, state.ssm)
        return self.out(q * y).to(u.dtype), H3State(known[:, 1:].clone(), ssm)

    def _heads(self, u: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, each as u, in its precision also under autocast: what the state collects."""
        return self.qkv(u).to(u.dtype).chunk(3, dim=-1)
