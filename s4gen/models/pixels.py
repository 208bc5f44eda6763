"""The density model of images whose stack runs once per pixel.

    p(x) = prod_k prod_c p(x_kc | pixels before k, x_k<c)         pixels k in raster order, channels c of each

A token is one value, as in every density model here: tokens are fed behind a first `bos`, and the output at position t
is the distribution of x_t. The stack is due where a pixel begins, at every C-th position; at the others the head works
from what it kept of the pixel and from the channels that are known by then.
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
    """The part of a model's state that belongs to no block."""

    recent: Tensor  # int64 (B, history * C - 1): the last tokens fed, the oldest first
    kept: Tensor  # r(B, K): what the head keeps of the pixel under way


class PixelModel(DensityModel):
    """A stem that reads neighbouring pixels, a residual stack, and a head that draws the channels of a pixel."""

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
        """Return the state of `batch` rows at the start of an image."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        recent = position.new_zeros(batch, self.stem.history * self.channels - 1)
        kept = torch.zeros(batch, self.head.kept, dtype=self.dtype, device=self.device)
        blocks = tuple(block.initial_state(batch) for block in self._blocks())
        return ModelState(position, (PixelState(recent, kept), *blocks), self._label(position, label))

    def begun(self, position: Any) -> Any:
        """Count the pixels that begin before `position`, a number or int64 (...)."""
        return (position + self.channels - 1) // self.channels

    def _read(
        self,
        pixels: Tensor,
        position: Tensor,
        label: Tensor | tuple[()],
        states: tuple[Any, ...] | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run stem and stack; return what the head keeps of each pixel, r(B, n, K), and the states of the blocks.

        pixels int64 (B, history + n - 1, C), position int64 (B or 1, n) and label int64 (B,) are what the stem reads.
        The states are those after all pixels, or after `lengths` int64 (B,) of them.
        """
        x, base = self.stem(pixels, position, label)
        x, after = self._run_blocks(x, states, lengths)
        return self.head.prepare(self.norm(x), base), after

    def _begin_pixels(
        self, known: Tensor, state: ModelState | None, before: ModelState, L: int, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run the stack for the pixels that begin at the next L positions.

        Returns what the head keeps of them, r(B, n, K), and the states of the blocks. known int64 (B, recent + L) are
        the tokens before and at those positions. Rows may begin different numbers of pixels; n is then the most that
        any row could begin, and only `lengths` int64 (B,) tokens of each row count.
        """
        C, blocks = self.channels, before.blocks[1:]
        together = lengths is None and (state is None or bool((before.position == before.position[:1]).all()))
        start: Count = int(before.position[0]) if together else before.position
        n = self.begun(start + L) - self.begun(start) if isinstance(start, int) else self.begun(L)
        if n == 0:
            return before.blocks[0].kept[:, None][:, :0], blocks
        # The stack is due when the last channel of the pixel before is fed; the `history` pixels up to there are read.
        pixels = take(known, -start % C, (self.stem.history + n - 1) * C).unflatten(1, (-1, C))
        first = self.begun(start)
        position = (first[:, None] if isinstance(first, Tensor) else first) + torch.arange(n, device=known.device)
        end = before.position + (L if lengths is None else lengths)
        counts = None if together else self.begun(end) - self.begun(before.position)
        return self._read(pixels, position.view(-1, n), before.label, None if state is None else blocks, counts)

    def _contexts(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, ModelState]:
        """Collect what the head needs at each position of tokens int64 (B, L).

        Returns kept r(B, L, K); known int64 (B, L, C), the values of the pixel's channels; channel int64 (B, L), the
        channel to be predicted, before which alone `known` counts; and the state after the tokens, or after `lengths`.
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
        """Turn tokens into values of channels. bos is none and is clamped; it stands only where nothing counts."""
        return tokens.clamp_max(self.stem.layout.levels - 1)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        kept, known, channel, state = self._contexts(tokens, state, None)
        return self.head.log_probs(kept, known, channel), state

    def score(
        self, tokens: Tensor, target: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Score as every density model does; for whole pixels, the probabilities of all values are never made."""
        if not self._whole_pixels(tokens, target, state):
            return super().score(tokens, target, state, label)
        before = self.initial_state(len(tokens), label) if state is None else state
        recent, L = before.blocks[0].recent, tokens.shape[1]
        known = torch.cat((recent, tokens), dim=1)
        kept, blocks = self._begin_pixels(known, state, before, L, None)
        nats = self.head.nats(kept, target.unflatten(1, (-1, self.channels))).flatten(1)
        after = PixelState(take(known, L, recent.shape[1]).clone(), kept[:, -1].clone())
        return nats, ModelState(before.position + L, (after, *blocks), before.label)

    def _whole_pixels(self, tokens: Tensor, target: Tensor, state: ModelState | None) -> bool:
        """Return whether the rows of a chunk are whole pixels, and `target` holds the tokens that are fed."""
        # `head.nats` takes the channels that a channel depends on from the target, so those must be the tokens fed.
        if tokens.shape[1] % self.channels or not torch.equal(tokens[:, 1:], target[:, :-1]):
            return False
        if state is None:
            return True
        first = state.position[:1]
        return bool(((state.position == first) & (first % self.channels == 0)).all())

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
        """Take a step without a branch on a tensor, for a caller who knows whether a pixel begins in some row (`due`).

        Rows in which no pixel begins keep what they have. If one begins in every row (`everywhere`), none is compared.
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
        # The known channels of the pixel are the last tokens that were fed.
        back = channel[:, None] - torch.arange(C, device=token.device)
        values = known.gather(1, (known.shape[1] - back).clamp_max(known.shape[1] - 1))
        log_probs = self.head.log_probs(kept, self._values(values), channel)
        after_it = (PixelState(known[:, 1:].clone(), kept), *blocks)
        return log_probs, state._replace(position=state.position + 1, blocks=after_it)
