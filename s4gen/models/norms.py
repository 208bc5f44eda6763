"""Norms. Those of density models are over the features of one position, so no position learns anything of another.

All of them are called alike, `norm(x, lengths)`: x r(B, L, H), or r(B, H) in a step, and the lengths int64 (B,) of rows
that end before L, which matter to a batch norm alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import ModelConfig


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm, called like all norms here."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise x r(..., H) at each position."""
        return super().forward(x)


class NoNorm(nn.Module):
    """The norm before the head of a stack whose blocks end with one: it changes nothing."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return x as it is."""
        return x


class BatchNorm(nn.Module):
    """Batch normalisation of each feature over all valid positions of all rows (arXiv 1502.03167).

    In training the mean and the variance are those of the batch, and their running means are kept in buffers, which is
    the one case in which a forward pass changes something of a module. In evaluation mode the norm is a fixed scale and
    shift of each feature, the same in parallel and step by step.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d_model: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise x r(B, L, H), of which row b has `lengths[b]` valid positions, or x r(B, H) in evaluation mode."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._of_batch(x, lengths)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale + (self.bias - mean * scale)

    def _of_batch(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance r(H) over the valid positions, and count them in the running ones."""
        if lengths is None:
            n = x.new_tensor(x.shape[0] * x.shape[1])
            variance, mean = torch.var_mean(x, dim=(0, 1), correction=0)
        else:
            valid = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
            n = lengths.sum().clamp_min(1).to(x.dtype)
            mean = torch.where(valid, x, 0).sum((0, 1)) / n
            variance = torch.where(valid, x - mean, 0).square().sum((0, 1)) / n
        with torch.no_grad():
            unbiased = variance * (n / (n - 1).clamp_min(1))
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.detach().to(self.running_var.dtype), self.momentum)
        return mean, variance


class ScalarNorm(nn.Module):
    """s (x - mean + m) / std over the last axis, with one m and one s for all features, as in the published SaShiMi.

    The standard deviation is the biased one. Nothing is added to it, so a vector of equal features is divided by zero.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.m = nn.Parameter(torch.zeros(1))
        self.s = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise x r(..., H) at each position."""
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean + self.m) * (self.s * variance.rsqrt())


def make_norm(model: ModelConfig) -> LayerNorm | ScalarNorm | BatchNorm:
    """Make the norm that the configuration asks for."""
    if model.batch_norm:
        return BatchNorm(model.d_model)
    return ScalarNorm(model.d_model) if model.scalar_norm else LayerNorm(model.d_model)
