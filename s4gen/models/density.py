"""The contract that every density model keeps: p(x) = prod_t p(x_t | x_<t) over sequences of tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from s4gen.config import DensityConfig
from s4gen.models.sequence import SequenceModel


class ModelState(NamedTuple):
    """Everything that a model remembers of the tokens fed so far. It is a value: no method changes it in place."""

    position: Tensor  # int64 (B,): tokens fed so far, bos included
    blocks: tuple[Any, ...]  # state of every block; a multi-scale stack or a WaveNet has one for all of it
    label: Tensor | tuple[()] = ()  # int64 (B,): the class of each sequence, where there are classes
    recent: Tensor | tuple[()] = ()  # int64 (B, n): the last tokens, the oldest first, where an embedding reads them
    seen: Tensor | tuple[()] = ()  # bool (B, V): tokens that count as repeated; an engine's, which a model hands on


class DensityModel(SequenceModel):
    """The base of all density models; `build.build_model` makes the one that a configuration describes.

    A sequence is fed behind a first token `bos`, so the output at position t is the distribution of x_t given x_<t.
    Labels are int64 (B,); if a model has classes and no labels are given, they are class 0.
    """

    config: DensityConfig

    def __init__(self, config: DensityConfig, bos: int) -> None:
        super().__init__()
        self.config = config
        self.bos = bos
        """The token that stands in front of every sequence; it may be one beyond the vocabulary."""

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """Return the state of `batch` rows before anything was fed, for sequences of these classes."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """Feed tokens int64 (B, L), L >= 1, after `state`; None is the start, where the first token must be `bos`.

        Returns logits r(B, L, V), of which those at t are for the token after tokens[:, t], and the state at the end.
        """
        raise NotImplementedError

    def prefill(
        self,
        x: Tensor,
        state: ModelState | None = None,
        lengths: Tensor | None = None,
        label: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Read prompts x int64 (B, P) in parallel; return logits r(B, V) for the token after them, and the state.

        Args:
            x: the prompts.
            state: what was read before. None is the start: bos is put in front, and P may be 0.
            lengths: int64 (B,), where prompts have different lengths. Whatever stands behind the end of a prompt is
                ignored. A prompt of length 0 is possible only at the start.
            label: classes int64 (B,) at the start; later the state knows them.
        """
        if state is None:
            x = self._with_bos(x)
            lengths = None if lengths is None else lengths + 1
        return self._read_prompt(x, state, lengths, label)

    def _read_prompt(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        """Do what `prefill` does with tokens int64 (B, L) as they are fed; each row has `lengths` of them, >= 1."""
        raise NotImplementedError

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed one token int64 (B,); return logits r(B, V) for the next one, and the new state."""
        raise NotImplementedError

    def score(
        self, tokens: Tensor, target: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return -log p(target_t | state, tokens up to t) in nats, r(B, L), and the state after the tokens.

        tokens and target are int64 (B, L). label int64 (B,) counts at the start only; a state knows its labels.
        """
        if state is None and label is not None:
            state = self.initial_state(len(tokens), label)
        logits, state = self(tokens, state)
        return cross_entropy(logits, target), state

    def nats(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return -log p(x_t | x_<t) in nats, r(B, L), for whole sequences x int64 (B, L) without bos."""
        return self.score(self._with_bos(x[:, :-1]), x, label=label)[0]

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return log p(x) in nats, r(B,), for whole sequences x int64 (B, L) without bos."""
        return -self.nats(x, label).sum(-1)

    def _label(self, like: Tensor, label: Tensor | None) -> Tensor | tuple[()]:
        """Return labels int64 (B,) beside `like` (B,): class 0 if none are given, () if there are no classes."""
        if not getattr(self.config.layout, "classes", ()):
            return ()
        return like.new_zeros(len(like)) if label is None else label.to(like.device)

    def _with_bos(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0), value=self.bos)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log softmax(logits) at the target, r(...), from logits r(..., V) and target int64 (...)."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
