"""Norms over the features of one position, so that no position learns anything of another one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import ModelConfig


class ScalarNorm(nn.Module):
    """s (x - mean + m) / std over the last axis, with one m and one s for all features, as in the published SaShiMi.

    The standard deviation is the biased one. Nothing is added to it, so a vector of equal features is divided by zero.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.m = nn.Parameter(torch.zeros(1))
        self.s = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x r(..., H)."""
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean + self.m) * (self.s * variance.rsqrt())


def make_norm(model: ModelConfig) -> nn.LayerNorm | ScalarNorm:
    """Make the norm that the configuration asks for."""
    return ScalarNorm(model.d_model) if model.scalar_norm else nn.LayerNorm(model.d_model)
