"""The contract of a density model: p(x) = prod_t p(x_t | x_<t) over sequences of tokens."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s4gen.config import DensityConfig


class ModelState(NamedTuple):
    """Everything the model remembers of the tokens fed so far; a value, never changed in place."""

    position: Tensor  # int64 (B,): tokens fed so far, bos included
    blocks: tuple[Any, ...]  # state of every block; a multi-scale stack or a WaveNet has one for all of it
    label: Tensor | tuple[()] = ()  # int64 (B,): the class of each sequence, where there are classes
    recent: Tensor | tuple[()] = ()  # int64 (B, n): the last tokens, the oldest first, where an embedding reads them
    seen: Tensor | tuple[()] = ()  # bool (B, V): tokens that count as repeated; an engine's, which a model hands on


class DensityModel(nn.Module):
    """What every density model of sequences has in common; `build.build_model` makes the one that a config describes.

    Tokens are fed behind a first `bos`: the output at position t is the distribution of x_t given x_<t. Labels, int64
    (B,), are class 0 where a model has classes and they are not given.
    """

    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module

    def __init__(self, config: DensityConfig, bos: int) -> None:
        super().__init__()
        self.config = config
        self.bos = bos
        """The token that stands in front of every sequence; it may be one beyond the vocabulary."""
        self.recompute = False
        """In training, keep of each block its input alone, and compute the rest again for the gradient."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model works in; some parameters of an imported one are kept in a higher one."""
        return next(self.parameters()).dtype

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """The state before anything was fed."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens int64 (B, L) as fed, L >= 1, after `state` (None: at the start, so the first must be `bos`).

        Returns logits r(B, L, V), row t for the token after tokens[:, t], and the state after the last one.
        """
        raise NotImplementedError

    def prefill(
        self,
        x: Tensor,
        state: ModelState | None = None,
        lengths: Tensor | None = None,
        label: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Read x int64 (B, P) in parallel; returns logits r(B, V) of the token after it, and the state.

        Without a state, bos is put in front, so P may be 0. With lengths int64 (B,), prompts end after that many
        tokens, whatever token stands beyond; a row of length 0 needs bos, so a fresh start. A state knows its labels.
        """
        if state is None:
            x = self._with_bos(x)
            lengths = None if lengths is None else lengths + 1
        return self._read_prompt(x, state, lengths, label)

    def _read_prompt(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        """`prefill` of tokens int64 (B, L) as they are fed, L >= 1, of which each row has `lengths`, at least 1."""
        raise NotImplementedError

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed one token int64 (B,); returns logits r(B, V) of the next and the new state."""
        raise NotImplementedError

    def score(
        self, tokens: Tensor, target: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """-log p(target_t | state, tokens up to t) in nats, r(B, L), and the state after the tokens, int64 (B, L).

        A state knows its labels.
        """
        if state is None and label is not None:
            state = self.initial_state(len(tokens), label)
        logits, state = self(tokens, state)
        return cross_entropy(logits, target), state

    def nats(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p(x_t | x_<t) in nats, r(B, L), for whole sequences x int64 (B, L) without bos."""
        return self.score(self._with_bos(x[:, :-1]), x, label=label)[0]

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) in nats, r(B,)."""
        return -self.nats(x, label).sum(-1)

    def _label(self, like: Tensor, label: Tensor | None) -> Tensor | tuple[()]:
        """The labels int64 (B,) beside `like` (B,), class 0 where they are not given; none without classes."""
        if not getattr(self.config.layout, "classes", ()):
            return ()
        return like.new_zeros(len(like)) if label is None else label.to(like.device)

    def _with_bos(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0), value=self.bos)

    def _blocks(self) -> list[Any]:
        return list(self.blocks)

    def _run_blocks(
        self, x: Tensor, states: tuple[Any, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """x r(B, L, H) through the stack from `states` (None: at the start), and the states after it, or `lengths`."""
        recompute, after = self.recompute and self.training and torch.is_grad_enabled(), []
        for i, block in enumerate(self._blocks()):
            run = functools.partial(checkpoint, block, use_reentrant=False) if recompute else block
            x, state = run(x, None if states is None else states[i], lengths)
            after.append(state)
        return x, tuple(after)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(logits r(..., V)) at target int64 (...): r(...)."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)


def resampled(model: DensityModel, rate: float) -> DensityModel:
    """A copy of the model with every dt multiplied by `rate`, so both views read the same signals at another rate.

    rate 2 is for signals with half as many samples per second as it was trained on. A multi-scale stack still pools as
    many samples as before, of twice the duration then. Raises ValueError for rate <= 0.
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if hasattr(module, "rescale_dt_"):
            module.rescale_dt_(rate)  # type: ignore[operator]
    return copied
