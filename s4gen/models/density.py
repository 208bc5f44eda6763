"""The density model: p(x) = prod_t p(x_t | x_<t) over sequences of tokens."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.config import DensityConfig
from s4gen.models.blocks import Block
from s4gen.models.embedding import ImageEmbedding


class ModelState(NamedTuple):
    """Everything the model remembers of the tokens fed so far; a value, never changed in place."""

    place: Tensor  # int64 (B,): tokens fed so far, bos included
    blocks: tuple[Any, ...]  # state of every block's mixer


class DensityModel(nn.Module):
    """Embedding, residual stack, categorical head.

    Tokens are fed behind a first `bos`: the output at place t is the distribution of x_t given x_<t.
    """

    def __init__(self, config: DensityConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = ImageEmbedding(config.layout, config.model.d_model)
        self.bos = self.embedding.bos
        self.blocks = nn.ModuleList(Block(config.model, config.ssm) for _ in range(config.model.n_layers))
        self.norm = nn.LayerNorm(config.model.d_model)
        self.head = nn.Linear(config.model.d_model, config.layout.vocab)

    def initial_state(self, batch: int) -> ModelState:
        """The state before anything was fed."""
        place = torch.zeros(batch, dtype=torch.int64, device=self.head.weight.device)
        return ModelState(place, tuple(block.initial_state(batch) for block in self._blocks()))

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _hidden(
        self, tokens: Tensor, state: ModelState | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        n_batch, L = tokens.shape
        start = tokens.new_zeros(n_batch) if state is None else state.place
        x = self.embedding(tokens, start[:, None] + torch.arange(L, device=tokens.device))
        states = []
        for i, block in enumerate(self._blocks()):
            x, block_state = block(x, None if state is None else state.blocks[i], lengths)
            states.append(block_state)
        return x, ModelState(start + (L if lengths is None else lengths), tuple(states))

    def _logits(self, x: Tensor) -> Tensor:
        logits = self.head(self.norm(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens int64 (B, L) as fed, L >= 1, after `state` (None: at the start, so the first must be `bos`).

        Returns logits r(B, L, V), row t for the token after tokens[:, t], and the state after the last one.
        """
        x, state = self._hidden(tokens, state)
        return self._logits(x), state

    def _with_bos(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 0), value=self.bos)

    def nats(self, x: Tensor) -> Tensor:
        """-log p(x_t | x_<t) in nats, r(B, L), for whole sequences x int64 (B, L) without bos."""
        logits, _ = self(self._with_bos(x[:, :-1]))
        return F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(x.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, r(B,)."""
        return -self.nats(x).sum(-1)

    def prefill(
        self, x: Tensor, state: ModelState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Read x int64 (B, P) in parallel; returns logits r(B, V) of the token after it, and the state.

        Without a state, bos is put in front, so P may be 0. With lengths int64 (B,), prompts end after that many
        tokens, whatever token stands beyond; a row of length 0 needs bos, so a fresh start.
        """
        if state is None:
            x = self._with_bos(x)
            lengths = None if lengths is None else lengths + 1
        hidden, state = self._hidden(x, state, lengths)
        last = hidden[:, -1] if lengths is None else hidden[torch.arange(len(x), device=x.device), lengths - 1]
        return self._logits(last), state

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed one token int64 (B,); returns logits r(B, V) of the next and the new state."""
        x = self.embedding(token, state.place)
        states = []
        for block, block_state in zip(self._blocks(), state.blocks, strict=True):
            x, new = block.step(x, block_state)
            states.append(new)
        return self._logits(x), ModelState(state.place + 1, tuple(states))

    def ssm_parameter_names(self) -> set[str]:
        """Names of the parameters that train with the SSM's own learning rate and without weight decay."""
        return {
            f"blocks.{i}.mixer.{name}"
            for i, block in enumerate(self._blocks())
            for name in getattr(block.mixer, "ssm_parameters", ())
        }


def resampled(model: DensityModel, rate: float) -> DensityModel:
    """A copy of the model with every dt multiplied by `rate`, so both views read the same signals at another rate.

    rate 2 is for signals with half as many samples per second as it was trained on. Raises ValueError for rate <= 0.
    """
    copied = copy.deepcopy(model)
    for block in copied.blocks:
        if isinstance(block, Block) and hasattr(block.mixer, "rescale_dt_"):
            block.mixer.rescale_dt_(rate)  # type: ignore[operator]
    return copied
