"""The density model: p(x) = prod_t p(x_t | x_<t) over sequences of tokens."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.config.schema import DIV
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.blocks import make_blocks
from s4gen.models.embedding import AudioEmbedding, ImageEmbedding, smooth_head
from s4gen.models.sashimi import Sashimi
from s4gen.models.wavenet import WaveNet

LOGITS_AT_A_TIME = 1 << 25
"""Of the softmax's first part, where the probabilities of given tokens alone are wanted."""


class ModelState(NamedTuple):
    """Everything the model remembers of the tokens fed so far; a value, never changed in place."""

    place: Tensor  # int64 (B,): tokens fed so far, bos included
    blocks: tuple[Any, ...]  # state of every block's mixer; of a multi-scale stack, or a WaveNet, one for all
    label: Tensor | tuple[()] = ()  # int64 (B,): the class of each sequence, where there are classes


class DensityModel(nn.Module):
    """Embedding, residual stack, categorical head.

    Tokens are fed behind a first `bos`: the output at place t is the distribution of x_t given x_<t. For images, bos is
    a token beyond the others, and the embedding knows the places; for text it is one of the vocabulary, and the head's
    tables are the embedding's; for audio it is beyond the others, and the embedding knows the label, if any. Labels,
    int64 (B,), are class 0 where they are not given.
    """

    embedding: ImageEmbedding | AdaptiveEmbedding | AudioEmbedding
    head: nn.Linear | AdaptiveSoftmax

    def __init__(self, config: DensityConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """In training, keep of each block its input alone, and compute the rest again for the gradient."""
        layout, model = config.layout, config.model
        if isinstance(layout, ImageLayout):
            self.embedding = ImageEmbedding(layout, model.d_model)
            self.bos = self.embedding.bos
        elif isinstance(layout, AudioLayout):
            self.embedding = AudioEmbedding(layout, model.d_model)
            self.bos = self.embedding.bos
        else:
            self.embedding = AdaptiveEmbedding(layout.vocab, model.d_model, model.cutoffs, DIV, model.dropout)
            self.bos = layout.start
        self.blocks = nn.ModuleList(_stack(model, config.ssm))
        self.norm = nn.LayerNorm(model.d_model)
        if isinstance(self.embedding, AdaptiveEmbedding):
            self.head = AdaptiveSoftmax(self.embedding, model.dropout)
        else:
            self.head = nn.Linear(model.d_model, layout.vocab)
            if isinstance(layout, AudioLayout):
                with torch.no_grad():
                    self.head.weight.copy_(smooth_head(layout.vocab, model.d_model))
                    self.head.bias.zero_()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.norm.weight.device

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """The state before anything was fed."""
        place = torch.zeros(batch, dtype=torch.int64, device=self.device)
        return ModelState(
            place, tuple(block.initial_state(batch) for block in self._blocks()), self._label(place, label)
        )

    def _blocks(self) -> list[Any]:
        return list(self.blocks)

    def _label(self, like: Tensor, label: Tensor | None) -> Tensor | tuple[()]:
        if not isinstance(self.config.layout, AudioLayout) or not self.config.layout.classes:
            return ()
        return like.new_zeros(len(like)) if label is None else label.to(like.device)

    def _hidden(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        n_batch, L = tokens.shape
        start = tokens.new_zeros(n_batch) if state is None else state.place
        known = self._label(start, label) if state is None else state.label
        x = self.embed(tokens, start[:, None] + torch.arange(L, device=tokens.device), known)
        states = []
        for i, block in enumerate(self._blocks()):
            run = functools.partial(checkpoint, block, use_reentrant=False) if self._recomputes() else block
            x, block_state = run(x, None if state is None else state.blocks[i], lengths)
            states.append(block_state)
        return x, ModelState(start + (L if lengths is None else lengths), tuple(states), known)

    def _recomputes(self) -> bool:
        return self.recompute and self.training and torch.is_grad_enabled()

    def embed(self, tokens: Tensor, place: Tensor, label: Tensor | tuple[()] = ()) -> Tensor:
        """What the stack reads, r(B, ..., H), of tokens int64 (B, ...) at these places."""
        if isinstance(self.embedding, ImageEmbedding):
            return self.embedding(tokens, place)
        if isinstance(self.embedding, AudioEmbedding):
            return self.embedding(tokens, label if isinstance(label, Tensor) else None)
        return self.embedding(tokens)

    def _logits(self, x: Tensor) -> Tensor:
        """Of text, log-probabilities."""
        hidden = self.norm(x)
        logits = self.head.log_probs(hidden) if isinstance(self.head, AdaptiveSoftmax) else self.head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens int64 (B, L) as fed, L >= 1, after `state` (None: at the start, so the first must be `bos`).

        Returns logits r(B, L, V), row t for the token after tokens[:, t], and the state after the last one.
        """
        x, state = self._hidden(tokens, state)
        return self._logits(x), state

    def _with_bos(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0), value=self.bos)

    def nats(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p(x_t | x_<t) in nats, r(B, L), for whole sequences x int64 (B, L) without bos."""
        return self.score(self._with_bos(x[:, :-1]), x, label=label)[0]

    def score(
        self, tokens: Tensor, target: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """-log p(target_t | state, tokens up to t) in nats, r(B, L), and the state after the tokens, int64 (B, L).

        Of text, the logits of a whole vocabulary are never made for all tokens at once. A state knows its labels.
        """
        x, state = self._hidden(tokens, state, label=label)
        if not isinstance(self.head, AdaptiveSoftmax):
            return F.cross_entropy(self._logits(x).flatten(0, 1), target.flatten(), reduction="none").view(
                target.shape
            ), state
        rows = max(1, LOGITS_AT_A_TIME // self.head.width)
        parts = zip(self.norm(x).flatten(0, 1).split(rows), target.flatten().split(rows), strict=True)
        return torch.cat([self.head.nats(*part) for part in parts]).view(target.shape), state

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, r(B,)."""
        return -self.nats(x).sum(-1)

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
        hidden, state = self._hidden(x, state, lengths, label)
        last = hidden[:, -1] if lengths is None else hidden[torch.arange(len(x), device=x.device), lengths - 1]
        return self._logits(last), state

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed one token int64 (B,); returns logits r(B, V) of the next and the new state."""
        x = self.embed(token, state.place, state.label)
        states = []
        for block, block_state in zip(self._blocks(), state.blocks, strict=True):
            x, new = block.step(x, block_state)
            states.append(new)
        return self._logits(x), ModelState(state.place + 1, tuple(states), state.label)


def _stack(model: ModelConfig, ssm: SSMConfig) -> Iterable[nn.Module]:
    """What stands between embedding and head, each with the three methods of every sequence module."""
    if model.mixer == "wavenet":
        return [WaveNet(model.d_model, model.n_layers, model.d_ff)]
    return [Sashimi(model, ssm)] if model.pool else make_blocks(model, ssm)


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
