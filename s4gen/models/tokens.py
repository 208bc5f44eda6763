"""The density model whose stack runs once per token: for text, sound, and images read value by value."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.blocks import make_blocks
from s4gen.models.density import DensityModel, ModelState, cross_entropy
from s4gen.models.embedding import AudioEmbedding, ImageEmbedding, smooth_head
from s4gen.models.mixers import make_mixer
from s4gen.models.norms import make_norm
from s4gen.models.pooling import Count, take
from s4gen.models.sashimi import Sashimi

LOGITS_AT_A_TIME = 1 << 25
"""How many logits of the softmax's first part are made at once when only given tokens are scored: 128 MB in float32."""


class TokenModel(DensityModel):
    """Embedding, residual stack and categorical head, all of which run once per token.

    images  bos is one token more than there are values; the embedding knows positions, and labels if there are any
    sound   bos is one code more than there are; the embedding knows labels if there are any
    text    bos is the `<eos>` of the vocabulary; embedding and head share their tables unless model.tied is false
    """

    embedding: ImageEmbedding | AdaptiveEmbedding | AudioEmbedding | nn.Embedding
    head: nn.Linear | AdaptiveSoftmax

    def __init__(self, config: DensityConfig) -> None:
        layout, model = config.layout, config.model
        super().__init__(config, bos=layout.start if isinstance(layout, TextLayout) else layout.vocab)
        if isinstance(layout, ImageLayout):
            self.embedding = ImageEmbedding(layout, model.d_model)
        elif isinstance(layout, AudioLayout):
            self.embedding = AudioEmbedding(layout, model.d_model, model.recent)
        elif model.tied or model.cutoffs:
            self.embedding = AdaptiveEmbedding(layout.vocab, model.d_model, model.cutoffs, model.div, model.dropout)
        else:
            self.embedding = nn.Embedding(layout.vocab, model.d_model)
        self.blocks = nn.ModuleList(_stack(model, config.ssm))
        if model.pool:
            self.norm = nn.LayerNorm(model.d_model)
        else:
            self.norm = make_norm(model) if model.norm == "pre" else nn.Identity()
        if isinstance(self.embedding, AdaptiveEmbedding):
            self.head = AdaptiveSoftmax(self.embedding, model.dropout, model.tied)
        else:
            self.head = nn.Linear(model.d_model, layout.vocab)
            if isinstance(layout, AudioLayout):
                with torch.no_grad():
                    self.head.weight.copy_(smooth_head(layout.vocab, model.d_model))
                    self.head.bias.zero_()

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        blocks = tuple(block.initial_state(batch) for block in self._blocks())
        return ModelState(position, blocks, self._label(position, label), self._nothing_yet(position))

    def _nothing_yet(self, like: Tensor) -> Tensor | tuple[()]:
        """Return bos for each of the tokens before the first, if the embedding reads more than the last token."""
        recent = self.config.model.recent
        return like.new_full((len(like), recent - 1), self.bos) if recent else ()

    def _hidden(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        n_batch, L = tokens.shape
        start = tokens.new_zeros(n_batch) if state is None else state.position
        known = self._label(start, label) if state is None else state.label
        before = self._nothing_yet(start) if state is None else state.recent
        x = self.embed(tokens, start[:, None] + torch.arange(L, device=tokens.device), known, before)
        x, states = self._run_blocks(x, None if state is None else state.blocks, lengths)
        read: Count = L if lengths is None else lengths
        seen = () if state is None else state.seen
        return x, ModelState(start + read, states, known, _last(before, tokens, read), seen)

    def embed(
        self, tokens: Tensor, position: Tensor, label: Tensor | tuple[()] = (), recent: Tensor | tuple[()] = ()
    ) -> Tensor:
        """Return the input of the stack, r(B, L, H), for tokens int64 (B, L) at these positions int64 (B, L).

        recent int64 (B, n) are the tokens before them, for a model of sound that reads several samples.
        """
        if isinstance(self.embedding, ImageEmbedding):
            return self.embedding(tokens, position, _given(label))
        if isinstance(self.embedding, AudioEmbedding):
            return self.embedding(tokens, _given(label), _given(recent))
        return self.embedding(tokens)

    def _logits(self, x: Tensor) -> Tensor:
        """Return logits r(..., V) for x r(..., H). For text these are already normalised log-probabilities."""
        hidden = self.norm(x)
        logits = self.head.log_probs(hidden) if isinstance(self.head, AdaptiveSoftmax) else self.head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        x, state = self._hidden(tokens, state)
        return self._logits(x), state

    def score(
        self, tokens: Tensor, target: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Do as every density model does, but never make the logits of a large vocabulary for all tokens at once."""
        x, state = self._hidden(tokens, state, label=label)
        if not isinstance(self.head, AdaptiveSoftmax):
            return cross_entropy(self._logits(x), target), state
        rows = max(1, LOGITS_AT_A_TIME // self.head.width)
        parts = zip(self.norm(x).flatten(0, 1).split(rows), target.flatten().split(rows), strict=True)
        return torch.cat([self.head.nats(*part) for part in parts]).view(target.shape), state

    def _read_prompt(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, ModelState]:
        hidden, state = self._hidden(tokens, state, lengths, label)
        last = (
            hidden[:, -1] if lengths is None else hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        )
        return self._logits(last), state

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        x = self.embed(token[:, None], state.position[:, None], state.label, state.recent)[:, 0]
        states = []
        for block, block_state in zip(self._blocks(), state.blocks, strict=True):
            x, new = block.step(x, block_state)
            states.append(new)
        recent = _last(state.recent, token[:, None], 1)
        return self._logits(x), ModelState(state.position + 1, tuple(states), state.label, recent, state.seen)


def _last(before: Tensor | tuple[()], tokens: Tensor, read: Count) -> Tensor | tuple[()]:
    """Return the last n tokens, int64 (B, n), after `read` of the tokens (B, L) have followed `before` int64 (B, n)."""
    if not isinstance(before, Tensor):
        return ()
    return take(torch.cat((before, tokens), dim=1), read, before.shape[1]).clone()


def _given(x: Tensor | tuple[()]) -> Tensor | None:
    return x if isinstance(x, Tensor) else None


def _stack(model: ModelConfig, ssm: SSMConfig) -> Iterable[nn.Module]:
    """Return the modules between embedding and head. Each has `forward`, `initial_state` and `step`."""
    if model.traits.whole_stack:
        return [make_mixer(model, ssm)]
    return [Sashimi(model, ssm)] if model.pool else make_blocks(model, ssm)
