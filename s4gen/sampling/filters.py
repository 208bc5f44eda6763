"""Filters on logits, applied in this order: temperature -> top-k -> top-p -> min-p.

Each one is a pure function of logits (B, V) that leaves a kept token's logit alone (temperature: divides all) and
sets a removed token's logit to -inf; each sees the distribution, renormalised, that the one before it left. No filter
ever removes every token. Ties are broken towards the lower token id, so the result is a function of the logits alone.

top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024,
arXiv:2407.01082.
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
    """p^(1/T), renormalised. The limit T = 0 keeps the most probable token alone."""
    if temperature == 1.0:
        return logits
    if temperature == 0.0:
        return keep_top_k(logits, 1)
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # the maximum at 0: no overflow at a small T


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k most probable tokens, exactly k of them even among ties; k = 0 or k >= V keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    return torch.full_like(logits, -math.inf).scatter(-1, index[..., :k], ordered[..., :k])


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of most probable tokens whose mass is at least p, never empty; p = 1 keeps all."""
    if p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    mass = ordered.softmax(dim=-1).cumsum(dim=-1)
    mass_before = pad(mass[..., :-1], (1, 0), value=-1.0)  # -1: the first token stays whatever p is
    kept = ordered.masked_fill(mass_before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, index, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """The tokens at least p times as probable as the most probable one; p = 0 keeps all."""
    if p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


@dataclass(frozen=True)
class Filters(FilterSettings):
    """All filters as one function of logits.

    Raises:
        UserError: a setting is out of range.
    """

    @property
    def remembers(self) -> bool:
        """Whether sessions must keep which tokens each row has had (`ModelState.seen`)."""
        return self.repetition_penalty != 1

    def penalised(self, logits: Tensor, seen: Tensor | tuple[()]) -> Tensor:
        """Apply the repetition penalty, which comes first: logits (B, V), seen bool (B, V) -> logits (B, V)."""
        if not self.remembers or not isinstance(seen, Tensor):
            return logits
        return penalise(logits, seen, self.repetition_penalty)

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply all others: logits (B, V) -> filtered logits (B, V) float64."""
        logits = apply_temperature(logits.double(), self.temperature)
        return keep_min_p(keep_top_p(keep_top_k(logits, self.top_k), self.top_p), self.min_p)


KEEP_ALL = Filters()
