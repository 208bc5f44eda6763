"""SaShiMi: a stack of residual blocks at several time scales, autoregressive (arXiv 2202.09729, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from s4gen.config import ModelConfig, SSMConfig
from s4gen.models.blocks import Block, State
from s4gen.models.pooling import Count, Pool, PoolState, take
from s4gen.models.states import where_rows


class SashimiState(NamedTuple):
    """The state of one level and of all coarser ones. It is a value: no method changes it in place."""

    position: Tensor  # int64 (B,): inputs so far, of this level
    blocks: tuple[State, ...]  # those on the way down first
    coarser: tuple[PoolState, SashimiState] | tuple[()]  # empty at the coarsest level


class Sashimi(nn.Module):
    """A stack of residual blocks with a stack for the next coarser level inside, and so on for every stride in `pool`.

        z = inner(windows of pool[0] positions of x)   pool[0] times as slow, `expand` times as wide (d_model and d_ff)
        s = x + up(z), one window late                (the coarsest level has s = x)
        y = s + blocks(s)

    Every level has `model.n_layers` blocks. With `unet`, all but the coarsest have as many again, which make the x
    above from the input. y_t depends on inputs up to t only. Any length will do, since an unfinished window waits in
    the state.
    """

    def __init__(self, model: ModelConfig, ssm: SSMConfig, pool: Sequence[int] | None = None) -> None:
        """Build the level whose coarser ones have the strides `pool`; None: all strides of the model."""
        super().__init__()
        self.d_model = model.d_model
        pool = model.pool if pool is None else pool
        self.down = nn.ModuleList(Block(model, ssm) for _ in range(model.n_layers if model.unet and pool else 0))
        self.up = nn.ModuleList(Block(model, ssm) for _ in range(model.n_layers))
        self.pool: Pool | None = None
        self.inner: Sashimi | None = None
        if pool:
            wide = replace(model, d_model=model.d_model * model.expand, d_ff=model.d_ff * model.expand)
            self.pool = Pool(model.d_model, wide.d_model, pool[0])
            self.inner = Sashimi(wide, ssm, pool[1:])

    def initial_state(self, batch: int) -> SashimiState:
        """Return the state before the first input."""
        position = torch.zeros(batch, dtype=torch.int64, device=next(self.parameters()).device)
        blocks = tuple(block.initial_state(batch) for block in (*self._down(), *self._up()))
        if self.pool is None or self.inner is None:
            return SashimiState(position, blocks, ())
        return SashimiState(position, blocks, (self.pool.initial_state(batch), self.inner.initial_state(batch)))

    def forward(
        self, x: Tensor, state: SashimiState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, SashimiState]:
        """Read x r(B, L, H), L >= 1, after `state` (None: the start); return y r(B, L, H) and the state after x.

        With lengths int64 (B,), the state of a row is the one after that many of its inputs. From the start and without
        lengths all rows are in phase, so nothing is gathered and every level reads exactly the windows that are full.
        """
        before = self.initial_state(len(x)) if state is None else state
        read: Count = x.shape[1] if lengths is None else lengths
        x, states = _run(self._down(), x, before.blocks, lengths)
        coarser = before.coarser
        s = x
        if self.pool is not None and self.inner is not None and coarser:
            pooled, inner = coarser
            phase: Count = 0 if state is None else state.position % self.pool.stride
            filled = (phase + read) // self.pool.stride
            z, last = self.pool.windows(x, pooled.last, phase, read)
            if z.shape[1]:
                ends = filled if isinstance(filled, Tensor) else None
                z, inner = self.inner(z, None if state is None else inner, ends)
            added, pending = self.pool.spread(z, pooled.pending, phase, filled, x.shape[1])
            s = x + added
            coarser = (PoolState(last, pending), inner)
        y, more = _run(self._up(), s, before.blocks[len(states) :], lengths)
        return s + y, SashimiState(before.position + read, states + more, coarser)

    def step(self, x: Tensor, state: SashimiState) -> tuple[Tensor, SashimiState]:
        """Read one input r(B, H); return y r(B, H) and the new state. A coarser level runs when it is due in some row.

        This looks at the values of `state.position`, so on an accelerator it has to wait for them; `step_levels` has
        not.
        """
        return self.step_levels(x, state, max(map(self.due, state.position.tolist()), default=0))

    def due(self, position: int) -> int:
        """Count the coarser levels that run after the input at `position` (from 0): it fills a window of each."""
        if self.pool is None or self.inner is None or (position + 1) % self.pool.stride:
            return 0
        return 1 + self.inner.due(position // self.pool.stride)

    def step_levels(self, x: Tensor, state: SashimiState, due: int) -> tuple[Tensor, SashimiState]:
        """Take a step without a branch on a tensor, for a caller who knows the largest `due` of all rows.

        Rows may stand at different positions: a row in which fewer levels are due keeps its state of the others.
        """
        x, states = _step(self._down(), x, state.blocks)
        coarser = state.coarser
        s = x
        if self.pool is not None and self.inner is not None and coarser:
            (last, pending), inner = coarser
            phase = state.position % self.pool.stride
            s = x + take(pending, phase, 1)[:, 0]
            window = torch.cat((last, x[:, None]), dim=1)
            if due:
                z, stepped = self.inner.step_levels(self.pool.gather(window), inner, due - 1)
                full = phase == self.pool.stride - 1
                pending, inner = where_rows(full, (self.pool.scatter(z), stepped), (pending, inner))
            coarser = (PoolState(window[:, 1:].clone(), pending), inner)
        y, more = _step(self._up(), s, state.blocks[len(states) :])
        return s + y, SashimiState(state.position + 1, states + more, coarser)

    def _down(self) -> list[Block]:
        return [block for block in self.down if isinstance(block, Block)]

    def _up(self) -> list[Block]:
        return [block for block in self.up if isinstance(block, Block)]


def _run(
    blocks: Iterable[Block], x: Tensor, states: Iterable[State], lengths: Tensor | None
) -> tuple[Tensor, tuple[State, ...]]:
    """Run x r(B, L, H) through the blocks from as many of the first `states`; return the output and the new states."""
    after = []
    for block, state in zip(blocks, states, strict=False):
        x, state = block(x, state, lengths)
        after.append(state)
    return x, tuple(after)


def _step(blocks: Iterable[Block], x: Tensor, states: Iterable[State]) -> tuple[Tensor, tuple[State, ...]]:
    """Step x r(B, H) through the blocks from as many of the first `states`; return the output and the new states."""
    after = []
    for block, state in zip(blocks, states, strict=False):
        x, state = block.step(x, state)
        after.append(state)
    return x, tuple(after)
