"""The categorical head: a softmax over the values of a pixel's channels, one channel after another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.models.embedding import smooth_codes, smooth_head


class CategoricalHead(nn.Module):
    """A softmax over the values of each channel, given the pixel's channels before it.

        h = z + channel_c + sum_(j<c) value_j[v_j],   logits = head(h + GELU(linear h))

    z is the stack's output, which is what is kept of a pixel. With a single channel, logits = head(z). The tables begin
    as smooth curves over the values, because values are amplitudes.
    """

    def __init__(self, d_model: int, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels, self.kept = channels, levels, d_model
        self.head = nn.Linear(d_model, levels)
        with torch.no_grad():
            self.head.weight.copy_(smooth_head(levels, d_model))
            self.head.bias.zero_()
        self.value: nn.Embedding | None = None
        if channels > 1:
            self.value = nn.Embedding((channels - 1) * levels, d_model)
            self.channel = nn.Embedding(channels, d_model)
            self.linear = nn.Linear(d_model, d_model)
            nn.init.normal_(self.channel.weight, std=0.02)
            with torch.no_grad():
                self.value.weight.copy_(smooth_codes(levels, d_model).repeat(channels - 1, 1))

    def prepare(self, hidden: Tensor, base: Tensor) -> Tensor:
        """Return what is kept of a pixel: hidden r(..., D) itself. This head makes no use of the prediction `base`."""
        return hidden.to(base.dtype)

    def nats(self, kept: Tensor, pixels: Tensor) -> Tensor:
        """Return -log p(v_c | v_<c) in nats, r(..., C), for whole pixels int64 (..., C)."""
        channel = torch.arange(self.channels, device=pixels.device).expand(pixels.shape)
        known = pixels[..., None, :].expand(*pixels.shape, self.channels)
        logits = self._logits(kept[..., None, :].expand(*pixels.shape, -1), known, channel)
        return F.cross_entropy(logits.flatten(0, -2), pixels.flatten(), reduction="none").view(pixels.shape)

    def log_probs(self, kept: Tensor, known: Tensor, channel: Tensor) -> Tensor:
        """Return log p(v | v_<channel) of all values v, r(..., V).

        kept is r(..., D); known int64 (..., C) counts only in the channels before `channel` int64 (...).
        """
        return self._logits(kept, known, channel).log_softmax(-1)

    def _logits(self, kept: Tensor, known: Tensor, channel: Tensor) -> Tensor:
        hidden = kept
        if self.value is not None:
            hidden = hidden + self.channel(channel)
            for j in range(self.channels - 1):
                earlier = self.value(j * self.levels + known[..., j])
                hidden = hidden + torch.where((channel > j)[..., None], earlier, 0)
            hidden = hidden + F.gelu(self.linear(hidden))
        logits = self.head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
