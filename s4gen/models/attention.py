"""Causal self-attention with a key-value cache: the Transformer that s4gen is measured against.

It has the three methods of every sequence module (`forward`, `initial_state`, `step`), so it can replace the state
space layers of a density model, and everything around them (embedding, norms, feed-forward, head) stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_FIRST_CAPACITY = 64  # positions for which a cache has room when it first has to grow; after that it doubles


class AttentionState(NamedTuple):
    """Keys and values of all positions so far, or of as many of the last ones as a window needs.

    `keys` and `values` are (batch, heads, capacity, d_head); the first `length` positions are filled.
    """

    keys: Tensor
    values: Tensor
    length: int


class CausalAttention(nn.Module):
    """Multi-head attention of every position to itself and all earlier ones (arXiv 1706.03762, section 3.2).

    Without a window there is no position encoding here: the density model adds positions to its embedding. With one,
    a position sees the `window` last ones, itself included, and head h of n takes 2^(-8 h / n) times their distance off
    their scores, h = 1 .. n (ALiBi, arXiv 2108.12409). So the state is bounded, and the past may be of any length.

    Raises:
        ValueError: `n_heads` does not divide `d_model`.
    """

    def __init__(self, d_model: int, n_heads: int, window: int = 0) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got n_heads = {n_heads}, d_model = {d_model}")
        self.n_heads = n_heads
        self.window = window
        self.d_head = d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, u: Tensor, state: AttentionState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Read all positions of u (B, L, H) at once; return y (B, L, H) and the state after the last one.

        The state passed in is left as it was: its filled part is copied into the new one.

        Raises:
            ValueError: `lengths` are given, but all rows of this cache have one length.
        """
        if lengths is not None:
            raise ValueError("attention takes no lengths: its cache holds rows of one length; use an SSM mixer")
        query, key, value = self._heads(u)
        state = None if state is None else self._needed(state)
        seen = 0 if state is None else state.length
        if state is not None and seen:
            key = torch.cat((state.keys[:, :, :seen], key), dim=2)
            value = torch.cat((state.values[:, :, :seen], value), dim=2)
        if self.window:
            y = self._attend_in_window(query, key, value)
        elif seen:
            # is_causal would align the mask to the first key, but query i stands at position seen + i.
            mask = torch.ones(u.shape[1], key.shape[2], dtype=torch.bool, device=u.device).tril(seen)
            y = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            y = scaled_dot_product_attention(query, key, value, is_causal=True)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y, self._needed(AttentionState(key, value, key.shape[2]))

    def _attend_in_window(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with query (B, heads, L, d_head), which belongs to the last L keys, a window of queries at a time."""
        parts = []
        for first in range(0, query.shape[2], self.window):
            queries = query[:, :, first : first + self.window]
            end = key.shape[2] - query.shape[2] + first + queries.shape[2]
            seen = slice(max(0, end - queries.shape[2] - self.window + 1), end)
            keys, values = key[:, :, seen], value[:, :, seen]
            parts.append(_attend(queries, keys, values, self._bias(queries.shape[2], keys.shape[2], query)))
        return torch.cat(parts, dim=2)

    def _bias(self, queries: int, keys: int, like: Tensor) -> Tensor:
        """Return what is added to the scores of the last `queries` of `keys` positions, (heads, queries, keys)."""
        position = torch.arange(keys, device=like.device)
        distance = position[-queries:, None] - position
        slope = torch.exp2(-8 / self.n_heads * torch.arange(1, self.n_heads + 1, device=like.device))
        outside = (distance < 0) | (distance >= self.window)
        return (-slope[:, None, None] * distance).masked_fill(outside, -torch.inf).to(like.dtype)

    def _needed(self, state: AttentionState) -> AttentionState:
        """Return the part of the state that the next position sees, as views of its buffers."""
        length = min(state.length, self.window - 1) if self.window else state.length
        first = state.length - length
        return state if not first else AttentionState(state.keys[:, :, first:], state.values[:, :, first:], length)

    def initial_state(self, batch: int, capacity: int = 0) -> AttentionState:
        """Return an empty cache with room for `capacity` positions before it has to grow."""
        weight = self.qkv.weight
        shape = (batch, self.n_heads, capacity, self.d_head)
        return AttentionState(weight.new_zeros(shape), weight.new_zeros(shape), 0)

    def step(self, u: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Read one position u (B, H); return y (B, H) and the state after it.

        Unlike in other modules the state is used up: the position is written into its buffers, so it must not be used
        again. A copy per step would make the baseline slower than it is.
        """
        query, key, value = self._heads(u.unsqueeze(1))
        if state.length == state.keys.shape[2]:
            state = self._needed(state)
            state = reserve(state, max(_FIRST_CAPACITY, 2 * state.length))
        here = state.length
        state.keys[:, :, here] = key[:, :, 0]
        state.values[:, :, here] = value[:, :, 0]
        seen = slice(max(0, here + 1 - self.window) if self.window else 0, here + 1)
        keys, values = state.keys[:, :, seen], state.values[:, :, seen]
        bias = self._bias(1, keys.shape[2], query) if self.window else None
        y = scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return self.out(y.flatten(1)), AttentionState(state.keys, state.values, here + 1)

    def _heads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of u (B, L, H), each (B, heads, L, d_head)."""
        batch, length, _ = u.shape
        qkv = self.qkv(u).view(batch, length, 3, self.n_heads, self.d_head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(d_head) + bias) value; the bias takes the part of a mask."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # There torch's fused kernel, forward and backward, takes twice the time of these four operations.
        return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias, dim=-1) @ value
    return scaled_dot_product_attention(query, key, value, attn_mask=bias)


def reserve(state: AttentionState, capacity: int) -> AttentionState:
    """Copy a cache into new buffers with room for `capacity` positions in all."""
    batch, heads, _, d_head = state.keys.shape
    keys = state.keys.new_zeros(batch, heads, capacity, d_head)
    values = state.values.new_zeros(batch, heads, capacity, d_head)
    keys[:, :, : state.length] = state.keys[:, :, : state.length]
    values[:, :, : state.length] = state.values[:, :, : state.length]
    return AttentionState(keys, values, state.length)
