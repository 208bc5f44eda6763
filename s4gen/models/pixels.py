"""The density model of images whose stack runs once per pixel: p(x) = prod_k prod_c p(x_kc | pixels before k, x_k<c).

A token is one value, as in every density model here: tokens are fed behind a first `bos`, and the output at position t
is the distribution of x_t. The stack is due where a pixel begins, at every C-th position; at the others the head works
from what it kept of the pixel, and the channels that are known by then.
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
from s4gen.models.states import where_rows
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
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        recent = position.new_zeros(batch, self.stem.history * self.channels - 1)
        kept = torch.zeros(batch, self.head.kept, dtype=self.dtype, device=self.device)
        blocks = tuple(block.initial_state(batch) for block in self._blocks())
        return ModelState(position, (PixelState(recent, kept), *blocks), self._label(position, label))

    def begun(self, position: Any) -> Any:
        """How many pixels begin at the positions before `position`, a number or int64 (...)."""
        return (position + self.channels - 1) // self.channels

    def _read(
        self,
        pixels: Tensor,
        position: Tensor,
        label: Tensor | tuple[()],
        states: tuple[Any, ...] | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """What the head keeps of each pixel, r(B, n, K), and the states of the blocks after all, or `lengths`, of them.

        pixels int64 (B, history + n - 1, C), position int64 (B or 1, n) and label int64 (B,) as the stem reads them.
        """
        x, base = self.stem(pixels, position, label)
        x, after = self._run_blocks(x, states, lengths)
        return self.head.prepare(self.norm(x), base), after

    def _begin_pixels(
        self, known: Tensor, state: ModelState | None, before: ModelState, L: int, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """What the head keeps of the pixels that begin at the next L positions, r(B, n, K), and the blocks' states.

        known int64 (B, recent + L): the tokens before and at those positions. Where rows begin different numbers of
        pixels, n is the most that any could, and `lengths` int64 (B,) tokens of each row count.
        """
        C, blocks = self.channels, before.blocks[1:]
        together = lengths is None and (state is None or bool((before.position == before.position[:1]).all()))
        start: Count = int(before.position[0]) if together else before.position
        n = self.begun(start + L) - self.begun(start) if isinstance(start, int) else self.begun(L)
        if n == 0:
            return before.blocks[0].kept[:, None][:, :0], blocks
        # A pixel begins with the token that ends the one before it, and `history` pixels end there.
        pixels = take(known, -start % C, (self.stem.history + n - 1) * C).unflatten(1, (-1, C))
        first = self.begun(start)
        position = (first[:, None] if isinstance(first, Tensor) else first) + torch.arange(n, device=known.device)
        end = before.position + (L if lengths is None else lengths)
        counts = None if together else self.begun(end) - self.begun(before.position)
        return self._read(pixels, position.view(-1, n), before.label, None if state is None else blocks, counts)

    def _contexts(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, ModelState]:
        """What the head needs to know at each position of tokens int64 (B, L), and the state after them, or `lengths`.

        Returns kept r(B, L, K), and known int64 (B, L, C) of which the channels before `channel` int64 (B, L) count.
        """
        before = self.initial_state(len(tokens), label) if state is None else state
        (recent, kept), L = before.blocks[0], tokens.shape[1]
        known = torch.cat((recent, tokens), dim=1)
        fresh, blocks = self._begin_pixels(known, state, before, L, lengths)
        kept = torch.cat((kept[:, None], fresh), dim=1)  # the pixel under way, then those that begin here
        rows, at = torch.arange(len(tokens), device=tokens.device), torch.arange(L, device=tokens.device)
        position = before.position[:, None] + at
        pixel = self.begun(position + 1) - self.begun(before.position)[:, None]
        channel = position % self.channels
        # Channel c of the pixel under way is the token of channel - 1 - c positions ago.
        back = channel[..., None] - 1 - torch.arange(self.channels, device=tokens.device)
        index = (recent.shape[1] + at[:, None] - back).clamp_max(known.shape[1] - 1)
        read: Count = L if lengths is None else lengths
        end = before.position + read
        last = kept[rows, self.begun(end) - self.begun(before.position)]
        after = PixelState(take(known, read, recent.shape[1]).clone(), last)
        values = self._values(known[rows[:, None, None], index])
        return kept[rows[:, None], pixel], values, channel, before._replace(position=end, blocks=(after, *blocks))

    def _values(self, tokens: Tensor) -> Tensor:
        """Tokens as values of channels; bos, which is none, is in no place where it counts."""
        return tokens.clamp_max(self.stem.layout.levels - 1)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        kept, known, channel, state = self._contexts(tokens, state, None)
        return self.head.log_probs(kept, known, channel), state

    def nats(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if x.shape[1] % self.channels:
            return super().nats(x, label)
        pixels = x.unflatten(1, (-1, self.channels))
        before = pixels.new_zeros(len(x), self.stem.history, self.channels)
        position = torch.arange(pixels.shape[1], device=x.device)[None]
        known = self._label(x[:, 0], label)
        kept, _ = self._read(torch.cat((before, pixels[:, :-1]), dim=1), position, known, None, None)
        return self.head.nats(kept, pixels).flatten(1)

    def _read_prompt(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        kept, known, channel, state = self._contexts(tokens, state, lengths, label)
        last = torch.full_like(state.position, tokens.shape[1] - 1) if lengths is None else lengths - 1
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.head.log_probs(kept[rows, last], known[rows, last], channel[rows, last]), state

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        begins = state.position % self.channels == 0
        return self.step_due(token, state, bool(begins.any()), bool(begins.all()))

    def step_due(
        self, token: Tensor, state: ModelState, due: bool, everywhere: bool = False
    ) -> tuple[Tensor, ModelState]:
        """`step` for a caller who knows whether a pixel begins in some row; no branch depends on a tensor.

        A row in which none begins keeps what it has; where one begins `everywhere`, no row has to be looked at.
        """
        (recent, kept), C = state.blocks[0], self.channels
        known = torch.cat((recent, token[:, None]), dim=1)
        channel, blocks = state.position % C, state.blocks[1:]
        if due:
            pixels = known.unflatten(1, (-1, C))
            x, base = self.stem(pixels, (state.position // C)[:, None], state.label)
            x, after = x[:, 0], []
            for block, block_state in zip(self._blocks(), blocks, strict=True):
                x, new = block.step(x, block_state)
                after.append(new)
            fresh = self.head.prepare(self.norm(x), base[:, 0])
            begun = (fresh, tuple(after))
            kept, blocks = begun if C == 1 or everywhere else where_rows(channel == 0, begun, (kept, blocks))
        # The channels that are known stand at the end of what was fed.
        back = channel[:, None] - torch.arange(C, device=token.device)
        values = known.gather(1, (known.shape[1] - back).clamp_max(known.shape[1] - 1))
        log_probs = self.head.log_probs(kept, self._values(values), channel)
        after_it = (PixelState(known[:, 1:].clone(), kept), *blocks)
        return log_probs, state._replace(position=state.position + 1, blocks=after_it)
