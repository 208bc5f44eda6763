"""The Transformer with a key-value cache, as lean as PyTorch makes it: it is the strongest baseline.

The whole step is one compiled graph with frozen weights, matrix products chosen by trial, and no guards. What else was
tried is told in `CachedTransformer.compiled` and `attend_by_products`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.models.density import DensityModel
from s4gen.sampling.randomness import draw

LARGEST_CACHE = 5 * 10**9
"""Bytes that all caches may take. Where the caches of all layers would take more, the layers share fewer."""
_FIRST = 2
"""torch.compile makes other code for 0 and 1 positions, so the first two steps are measured at the third position."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""query, key, value (B, heads, d_head), and keys and values before them (B, heads, P, d_head) -> (B, heads, d_head)."""


class LeanStep(nn.Module):
    """One step as a pure function: it writes to nothing, so that it compiles into one graph."""

    def __init__(self, model: DensityModel, attend: Attend) -> None:
        super().__init__()
        self._model = model
        self._attend = attend

    def forward(self, token: Tensor, position: Tensor, u: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one more token for every row.

        Args:
            token: the last token, int64 (B,).
            position: the number of tokens before it, int64 (B,).
            u: random numbers in [0, 1) for the draw, float64 (B,).
            past: keys and values of P positions, (M, 2, B, heads, P, d_head); layer i reads part i mod M.

        Returns:
            The tokens drawn, int64 (B,); keys and values of this position, (n_layers, 2, B, heads, d_head).
        """
        model: Any = self._model
        x = model.embed(token[:, None], position[:, None])[:, 0].to(past.dtype)
        new = []
        for i, block in enumerate(model.blocks):
            mixer = block.mixer
            qkv = mixer.qkv(block.norm(x)).view(len(x), 3, mixer.n_heads, mixer.d_head)
            y = self._attend(*qkv.unbind(1), *past[i % len(past)].unbind(0))
            x = block._finish(x, mixer.out(y.flatten(1)))
            new.append(qkv[:, 1:].transpose(0, 1))
        return draw(model._logits(x).float(), u), torch.stack(new)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by batched matrix products, the fastest form without a compiler.

    On two cores (AVX-512), 8 heads of 32: scaled_dot_product_attention is as fast with short caches and up to a third
    slower with long ones, three times slower if the cache is laid out by position first; keys or values transposed are
    no faster; a bf16 cache is two to ten times slower.
    """
    rows = query.shape[0] * query.shape[1]
    query = query * query.shape[-1] ** -0.5
    own = (query * key).sum(-1, keepdim=True)
    scores = torch.bmm(query.view(rows, 1, -1), keys.flatten(0, 1).transpose(1, 2)).view(*own.shape[:2], -1)
    weights = torch.cat((scores, own), dim=-1).softmax(dim=-1)
    before = torch.bmm(weights[..., :-1].reshape(rows, 1, -1), values.flatten(0, 1)).view_as(query)
    return before + weights[..., -1:] * value


def attend_by_loops(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by sums written out, for a compiler to make loops of: it reads each number of the cache once.

    Sums are float32, whatever the precision of the cache.
    """
    query = query * query.shape[-1] ** -0.5
    own = (query * key).sum(-1, keepdim=True, dtype=torch.float32)
    scores = (keys * query.unsqueeze(2)).sum(-1, dtype=torch.float32)
    largest = torch.maximum(scores.amax(-1, keepdim=True), own)
    weights, weight = (scores - largest).exp(), (own - largest).exp()
    total = (values * weights.unsqueeze(-1)).sum(2, dtype=torch.float32) + weight * value
    return (total / (weights.sum(-1, keepdim=True) + weight)).to(query.dtype)


class CachedTransformer:
    """A Transformer that takes single steps from a cache allocated once, for `capacity` positions.

    What a step costs does not depend on what is in the cache. So every position holds the same random vector, and no
    prefix has to be run through to get to a position.
    """

    def __init__(self, model: DensityModel, batch: int, capacity: int) -> None:
        mixer: Any = model.blocks[0].mixer
        dtype, device = model.dtype, model.device
        positions = max(capacity, _FIRST + 1)
        layer = (2, batch, mixer.n_heads, positions, mixer.d_head)
        self.layers = len(model.blocks)
        buffers = separate_caches(self.layers, math.prod(layer) * dtype.itemsize)
        self.cache = torch.empty(buffers, *layer, dtype=dtype, device=device)
        self.cache.copy_(torch.randn(mixer.d_head, device=device))
        self._token = torch.randint(model.config.layout.vocab, (batch,), device=device)
        self._u = torch.rand(batch, dtype=torch.float64, device=device)
        self._model = model
        self._step: Callable[..., tuple[Tensor, Tensor]] = LeanStep(model, attend_by_products)

    def compiled(self, position: int) -> CachedTransformer:
        """Return the same around the same cache, with its step compiled for every position and tuned for this one.

        That takes up to a minute. Use one compiled step at a time: nothing is checked before a step, so the next one
        that is compiled in this process takes the place of this one.

        Milliseconds of one core at positions 100 and 1,536 with 8 layers, d_model 256, while others used the memory:

            batch                            1             64             1, bf16        64, bf16
            not compiled                     3.0   4.4     25.8   95.9    3.3            86 (at 392)
            weights frozen, attend by products
                                             1.8   3.5     20.6   91.7
            products chosen by trial too     0.9   2.7     19.6   92.8    0.6   2.2      13.0   47.5
            and attend by loops (this)       0.8   2.2     18.4   71.8    0.4   1.5      10.8   43.5
        """
        import torch._inductor.config  # with the whole compiler: two seconds, which no other workload has to wait for

        torch._dynamo.reset()
        other = copy.copy(self)
        other._step = torch.compile(
            LeanStep(self._model, attend_by_loops), fullgraph=True, options={"guard_filter_fn": _no_guards}
        )
        with torch._inductor.config.patch(freezing=True, max_autotune=True):
            other.at(position)()
        return other

    def bytes_for(self, positions: int) -> int:
        """Return the bytes of a cache for so many positions, every layer having its own."""
        return self.layers * self.cache[0, :, :, :, 0].nbytes * positions

    def at(self, position: int) -> Callable[[], Tensor]:
        """Return a function that generates the token at this position, the same one however often it is called."""
        position = max(position, _FIRST)
        positions = torch.full_like(self._token, position)
        past, slot = self.cache[..., :position, :], self.cache[..., position, :]
        torch._dynamo.mark_dynamic(past, 4)  # one compilation for every position

        def step() -> Tensor:
            token, new = self._step(self._token, positions, self._u, past)
            slot.copy_(new[: len(slot)])
            return token

        return step


def separate_caches(layers: int, layer_bytes: int) -> int:
    """Return the number of caches: one for each layer, or as many as fit into LARGEST_CACHE bytes, at least one."""
    return max(1, min(layers, LARGEST_CACHE // layer_bytes))


def _no_guards(guards: Sequence[object]) -> list[bool]:
    """Ask PyTorch to check nothing before a step, which saves a quarter of a millisecond of each.

    The checks would find nothing, because shapes and types stay what they are.
    """
    return [False] * len(guards)
