"""Norms over the features of one position, so that they know nothing of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import ModelConfig


class ScalarNorm(nn.Module):
    """s (x - mean + m) / std over the last axis, with one m and one s: what SaShiMi was published with.

    The standard deviation is the biased one, and nothing is added to it: a vector of equal features has no norm.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.m = nn.Parameter(torch.zeros(1))
        self.s = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """x r(..., H) -> r(..., H)."""
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean + self.m) * (self.s * variance.rsqrt())


def make_norm(model: ModelConfig) -> nn.LayerNorm | ScalarNorm:
    """The norm of one sublayer."""
    return ScalarNorm(model.d_model) if model.scalar_norm else nn.LayerNorm(model.d_model)
