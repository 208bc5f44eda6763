"""The repetition penalty: tokens that a text already has become less likely (after Keskar et al. 2019, 1909.05858).

The probability p of a token that was seen becomes p^penalty, and all are normalised again. So it does not matter
whether the model gives logits or log-probabilities. The penalty comes before all other filters. Which tokens were seen
is part of the state (`ModelState.seen`), so it is forked, thinned out and saved together with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4gen.models.density import ModelState


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the penalty to logits (B, V) where `seen` bool (B, V); return log-probabilities that are not normalised."""
    log_p = logits.double().log_softmax(dim=-1)
    return torch.where(seen, penalty * log_p, log_p)


def with_seen(state: ModelState, vocab: int) -> ModelState:
    """Let a state remember from now on which of `vocab` tokens each row has; if it does so already, return it as is."""
    if isinstance(state.seen, Tensor):
        return state
    none = torch.zeros(len(state.position), vocab, dtype=torch.bool, device=state.position.device)
    return state._replace(seen=none)


def with_prompts_seen(state: ModelState, tokens: Tensor, lengths: Tensor | None, vocab: int) -> ModelState:
    """Let a state remember its prompts: tokens int64 (B, P), of which `lengths` (B,) count in each row (None: all)."""
    seen = torch.zeros(len(tokens), vocab, dtype=torch.bool)
    for i, row in enumerate(tokens):
        seen[i, row if lengths is None else row[: int(lengths[i])]] = True
    return state._replace(seen=seen.to(state.position.device))


def with_drawn_seen(state: ModelState, drawn: Tensor) -> ModelState:
    """Count the tokens drawn, int64 (B,), as seen from now on, if the state remembers such tokens at all."""
    return state._replace(seen=state.seen.scatter(1, drawn[:, None], True)) if isinstance(state.seen, Tensor) else state
