"""The density model of images whose stack runs once per pixel: p(x) = prod_k prod_c p(x_kc | pixels before k, x_k<c).

A token is one value, as in every density model here: tokens are fed behind a first `bos`, and the output at place t is
the distribution of x_t. The stack is due where a pixel begins, at every C-th place; at the others the head works from
what it kept of the pixel, and the channels that are known by then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s4gen.config import DensityConfig, ImageLayout
from s4gen.models.blocks import make_blocks
from s4gen.models.categorical import CategoricalHead
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.mixture import MixtureHead
from s4gen.models.pooling import Count, take
from s4gen.models.rows import where_rows
from s4gen.models.stem import PixelStem


class PixelState(NamedTuple):
    """What stands around the stack's own states."""

    recent: Tensor  # int64 (B, history * C - 1): the last tokens that were fed, the oldest first
    kept: Tensor  # r(B, K): what the head has of the pixel under way


class PixelModel(DensityModel):
    """Stem, residual stack, head; see the module's text."""

    stem: PixelStem
    head: MixtureHead | CategoricalHead

    def __init__(self, config: DensityConfig) -> None:
        layout, model = config.layout, config.model
        assert isinstance(layout, ImageLayout)
        super().__init__(config, bos=layout.levels)
        self.channels = layout.channels
        self.stem = PixelStem(layout, model.d_model, model.neighbourhood, model.head == "categorical")
        self.blocks = nn.ModuleList(make_blocks(model, config.ssm, self.stem.raster))
        self.norm = nn.LayerNorm(model.d_model)
        if model.head == "mixture":
            self.head = MixtureHead(model.d_model, layout.channels, layout.levels, model.components, model.zero_start)
        else:
            self.head = CategoricalHead(model.d_model, layout.channels, layout.levels)

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """The state before anything was fed."""
        place = torch.zeros(batch, dtype=torch.int64, device=self.device)
        recent = place.new_zeros(batch, self.stem.history * self.channels - 1)
        kept = self.norm.weight.new_zeros(batch, self.head.kept)
        blocks = tuple(block.initial_state(batch) for block in self._blocks())
        return ModelState(place, (PixelState(recent, kept), *blocks))

    def _read(
        self, pixels: Tensor, place: Tensor, states: tuple[Any, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """What the head keeps of each pixel, r(B, n, K), and the states of the blocks after `lengths`, or all, of them.

        pixels int64 (B, history + n - 1, C) and place int64 (B or 1, n) as the stem reads them.
        """
        x, base = self.stem(pixels, place)
        x, after = self._run_blocks(x, states, lengths)
        return self.head.prepare(self.norm(x), base), after

    def _kept(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, ModelState]:
        """For tokens int64 (B, L) as fed, what the head needs to know at each of their places, and the state.

        Returns kept r(B, L, K), known int64 (B, L, C), of which the channels before `channel` int64 (B, L) count.
        """
        before = self.initial_state(len(tokens)) if state is None else state
        (recent, kept), C, L = before.blocks[0], self.channels, tokens.shape[1]
        read: Count = L if lengths is None else lengths
        uniform = lengths is None and (state is None or bool((before.place == before.place[:1]).all()))
        start: Count = int(before.place[0]) if uniform and len(before.place) else before.place
        known = torch.cat((recent, tokens), dim=1)
        wait = -start % C  # tokens before the first one at whose place a pixel begins
        n = (L - wait + C - 1) // C if isinstance(wait, int) else (L + C - 1) // C
        blocks = before.blocks[1:]
        all_kept = kept[:, None]
        if n > 0:
            # A pixel begins with the token that ends the one before it; `history` pixels end with it.
            pixels = take(known[..., None], wait, (self.stem.history + n - 1) * C)[..., 0].unflatten(1, (-1, C))
            due = None if uniform else ((before.place + read + C - 1) // C - (before.place + C - 1) // C)
            first = (start + wait) // C
            at = torch.arange(n, device=tokens.device)
            places = (first[:, None] if isinstance(first, Tensor) else first) + at
            fresh, blocks = self._read(
                pixels, places if places.dim() == 2 else places[None], None if state is None else blocks, due
            )
            all_kept = torch.cat((all_kept, fresh), dim=1)
        place = before.place[:, None] + torch.arange(L, device=tokens.device)
        pixel = place // C + 1 - (before.place[:, None] + C - 1) // C  # in all_kept, whose first is the one under way
        channel = place % C
        rows = torch.arange(len(tokens), device=tokens.device)
        # The c-th channel of the pixel under way was fed `channel - 1 - c` tokens ago.
        back = channel[..., None] - 1 - torch.arange(C, device=tokens.device)
        index = recent.shape[1] + torch.arange(L, device=tokens.device)[:, None] - back
        values = known[rows[:, None, None], index.clamp_max(known.shape[1] - 1)]
        values = values.clamp_max(self.stem.layout.levels - 1)  # bos is no value, and no channel of a pixel
        ended = (before.place + read + C - 1) // C - (before.place + C - 1) // C
        last = PixelState(take(known[..., None], read, recent.shape[1])[..., 0].clone(), all_kept[rows, ended])
        return all_kept[rows[:, None], pixel], values, channel, ModelState(before.place + read, (last, *blocks))

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        kept, known, channel, state = self._kept(tokens, state, None)
        return self.head.log_probs(kept, known, channel), state

    def nats(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if x.shape[1] % self.channels:
            return super().nats(x)
        pixels = x.unflatten(1, (-1, self.channels))
        before = pixels.new_zeros(len(x), self.stem.history, self.channels)
        place = torch.arange(pixels.shape[1], device=x.device)[None]
        kept, _ = self._read(torch.cat((before, pixels[:, :-1]), dim=1), place, None, None)
        return self.head.nats(kept, pixels).flatten(1)

    def prefill(
        self,
        x: Tensor,
        state: ModelState | None = None,
        lengths: Tensor | None = None,
        label: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        if state is None:
            x = self._with_bos(x)
            lengths = None if lengths is None else lengths + 1
        kept, known, channel, state = self._kept(x, state, lengths)
        last = torch.full_like(state.place, x.shape[1] - 1) if lengths is None else lengths - 1
        rows = torch.arange(len(x), device=x.device)
        return self.head.log_probs(kept[rows, last], known[rows, last], channel[rows, last]), state

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        return self.step_due(token, state, bool((state.place % self.channels == 0).any()))

    def step_due(self, token: Tensor, state: ModelState, due: bool) -> tuple[Tensor, ModelState]:
        """`step` for a caller who knows whether a pixel begins in some row; no branch depends on a tensor.

        A row in which none begins keeps what it has.
        """
        (recent, kept), C = state.blocks[0], self.channels
        known = torch.cat((recent, token[:, None]), dim=1)
        channel, blocks = state.place % C, state.blocks[1:]
        if due:
            pixels = known.unflatten(1, (-1, C))
            x, base = self.stem(pixels, (state.place // C)[:, None])
            x, after = x[:, 0], []
            for block, block_state in zip(self._blocks(), blocks, strict=True):
                x, new = block.step(x, block_state)
                after.append(new)
            fresh = self.head.prepare(self.norm(x), base[:, 0])
            begun = (fresh, tuple(after))
            kept, blocks = begun if C == 1 else where_rows(channel == 0, begun, (kept, blocks))
        # The channels that are known stand at the end of what was fed.
        back = channel[:, None] - torch.arange(C, device=token.device)
        values = known.gather(1, (known.shape[1] - back).clamp_max(known.shape[1] - 1))
        log_probs = self.head.log_probs(kept, values.clamp_max(self.stem.layout.levels - 1), channel)
        return log_probs, ModelState(state.place + 1, (PixelState(known[:, 1:].clone(), kept), *blocks))
