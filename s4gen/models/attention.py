"""Causal self-attention with a key-value cache: the Transformer that s4gen is measured against.

It has the three methods of every sequence mixer (`forward`, `initial_state`, `step`), so it takes the place
of an SSM layer inside `DensityModel`, and everything around it (embedding, norms, feed-forward, head) stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_FIRST_CAPACITY = 64  # positions a cache holds when it first has to grow; it doubles after that


class AttentionState(NamedTuple):
    """Keys and values of all positions so far.

    `keys` and `values` are (batch, heads, capacity, d_head); the first `length` positions are filled.
    """

    keys: Tensor
    values: Tensor
    length: int


class CausalAttention(nn.Module):
    """Multi-head attention of every position to itself and all earlier ones (arXiv 1706.03762, section 3.2).

    There is no position encoding here: the density model adds positions to its embedding.
    Raises ValueError if `n_heads` does not divide `d_model`.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got n_heads = {n_heads}, d_model = {d_model}")
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, u: Tensor, state: AttentionState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """All positions at once: u (B, L, H) -> y (B, L, H) and the state after the last of them.

        The state passed in is left as it was: its filled part is copied into the new one. Raises ValueError for
        `lengths`: the rows of this cache are all of one length.
        """
        if lengths is not None:
            raise ValueError("attention takes no lengths: its cache holds rows of one length; use an SSM mixer")
        query, key, value = self._heads(u)
        seen = 0 if state is None else state.length
        if state is not None and seen:
            key = torch.cat((state.keys[:, :, :seen], key), dim=2)
            value = torch.cat((state.values[:, :, :seen], value), dim=2)
            # is_causal aligns the mask to the first key; query i stands at position seen + i.
            mask = torch.ones(u.shape[1], key.shape[2], dtype=torch.bool, device=u.device).tril(seen)
            y = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            y = scaled_dot_product_attention(query, key, value, is_causal=True)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y, AttentionState(key, value, key.shape[2])

    def initial_state(self, batch: int, capacity: int = 0) -> AttentionState:
        """An empty cache with room for `capacity` positions before it has to grow."""
        weight = self.qkv.weight
        shape = (batch, self.n_heads, capacity, self.d_head)
        return AttentionState(weight.new_zeros(shape), weight.new_zeros(shape), 0)

    def step(self, u: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One position: u (B, H) -> y (B, H) and the state after it.

        The cache is handed over: this position is written into its buffers, so the state passed in must not
        be used again. (A copy per step would make the baseline slower than it is.)
        """
        query, key, value = self._heads(u.unsqueeze(1))
        here = state.length
        if here == state.keys.shape[2]:
            state = reserve(state, max(_FIRST_CAPACITY, 2 * here))
        state.keys[:, :, here] = key[:, :, 0]
        state.values[:, :, here] = value[:, :, 0]
        keys, values = state.keys[:, :, : here + 1], state.values[:, :, : here + 1]
        y = scaled_dot_product_attention(query, keys, values)
        return self.out(y.flatten(1)), AttentionState(state.keys, state.values, here + 1)

    def _heads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u (B, L, H) -> query, key, value, each (B, heads, L, d_head)."""
        batch, length, _ = u.shape
        qkv = self.qkv(u).view(batch, length, 3, self.n_heads, self.d_head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def reserve(state: AttentionState, capacity: int) -> AttentionState:
    """The same cache in new buffers with room for `capacity` positions in all."""
    batch, heads, _, d_head = state.keys.shape
    keys = state.keys.new_zeros(batch, heads, capacity, d_head)
    values = state.values.new_zeros(batch, heads, capacity, d_head)
    keys[:, :, : state.length] = state.keys[:, :, : state.length]
    values[:, :, : state.length] = state.values[:, :, : state.length]
    return AttentionState(keys, values, state.length)
