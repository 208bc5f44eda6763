"""Filters on logits, applied in this order: temperature -> top-k -> top-p -> min-p.

Temperature divides all logits. Each of the others is a pure function of logits (B, V) that sets the logits of removed
tokens to -inf and leaves those of kept tokens alone. Every filter sees the renormalised distribution that the one
before it left. None ever removes all tokens. Ties go to the lower token, so the result depends on the logits alone.

Sources: top-k, Fan et al. 2018 (arXiv 1805.04833); top-p, Holtzman et al. 2020 (arXiv 1904.09751); min-p, Nguyen et al.
2024 (arXiv 2407.01082).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from s4gen.config.filters import FilterSettings
from s4gen.sampling.repetition import penalise


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Turn probabilities p into p^(1/T), up to a factor; T = 0 is the limit, which keeps only the likeliest token."""
    if temperature == 1.0:
        return logits
    if temperature == 0.0:
        return keep_top_k(logits, 1)
    # With its maximum moved to 0 first, no logit overflows when it is divided by a tiny T.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, exactly k even among ties; k = 0 or k >= V keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    # topk would be shorter, but it breaks ties in no fixed order; a stable sort breaks them towards the lower token.
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    return torch.full_like(logits, -math.inf).scatter(-1, index[..., :k], ordered[..., :k])


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest of the likeliest tokens whose probabilities sum to at least p; p = 1 keeps all."""
    if p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    mass = ordered.softmax(dim=-1).cumsum(dim=-1)
    mass_before = pad(mass[..., :-1], (1, 0), value=-1.0)  # -1: the first token stays, whatever p is
    kept = ordered.masked_fill(mass_before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, index, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens that are at least p times as likely as the likeliest one; p = 0 keeps all."""
    if p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


@dataclass(frozen=True)
class Filters(FilterSettings):
    """All filters as one value, which is a function of logits.

    Raises:
        UserError: a setting is out of range.
    """

    @property
    def remembers(self) -> bool:
        """Whether a session must remember which tokens each row has had (`ModelState.seen`)."""
        return self.repetition_penalty != 1

    def penalised(self, logits: Tensor, seen: Tensor | tuple[()]) -> Tensor:
        """Apply the repetition penalty, which comes first: logits (B, V), seen bool (B, V) -> logits (B, V)."""
        if not self.remembers or not isinstance(seen, Tensor):
            return logits
        return penalise(logits, seen, self.repetition_penalty)

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply all filters but the penalty: logits (B, V) -> filtered logits float64 (B, V)."""
        logits = apply_temperature(logits.double(), self.temperature)
        return keep_min_p(keep_top_p(keep_top_k(logits, self.top_k), self.top_p), self.min_p)


KEEP_ALL = Filters()
"""Filters that leave the model's distribution as it is."""
