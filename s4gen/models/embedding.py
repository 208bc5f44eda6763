"""Embeddings: they tell the stack the token before, and what is known of the next one, its position and its label."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import AudioLayout, ImageLayout


class ImageEmbedding(nn.Module):
    """Embedding of images whose values are read one by one: pixels in raster order, the channels of each together.

    The input at position t is the value at t - 1 (one table per channel; `bos` before the first) plus row, column and
    channel of the value at t, which is the one to be predicted. Positions are periodic in the length of an image, so
    that images can follow one another. If there are classes, the label is added at each position.
    """

    def __init__(self, layout: ImageLayout, d_model: int) -> None:
        super().__init__()
        self.layout = layout
        self.bos = layout.levels
        self.value = nn.Embedding(layout.channels * layout.levels + 1, d_model)
        self.row = nn.Embedding(layout.height, d_model)
        self.column = nn.Embedding(layout.width, d_model)
        self.channel = nn.Embedding(layout.channels, d_model)
        self.label = nn.Embedding(len(layout.classes), d_model) if layout.classes else None
        for table in (self.value, self.row, self.column, self.channel, self.label):
            if table is not None:
                nn.init.normal_(table.weight, std=0.5)

    def forward(self, tokens: Tensor, position: Tensor, label: Tensor | None = None) -> Tensor:
        """Return r(B, L, H) for tokens int64 (B, L) as fed and their positions, int64, which broadcast with the tokens.

        bos has position 0. label is int64 (B,), if there are classes.
        """
        channels = self.layout.channels
        position = position % self.layout.length
        value_channel = (position - 1) % channels
        is_bos = tokens == self.bos
        index = torch.where(is_bos, channels * self.layout.levels, value_channel * self.layout.levels + tokens)
        x = self.value(index) + self.where(position)
        return x if self.label is None or label is None else x + self.label(label)[:, None]

    def where(self, position: Tensor) -> Tensor:
        """Embed row, column and channel of positions int64 (...), 0 to the length of an image - 1: r(..., H)."""
        channels, width = self.layout.channels, self.layout.width
        pixel = position // channels
        return self.row(pixel // width) + self.column(pixel % width) + self.channel(position % channels)


class AudioEmbedding(nn.Module):
    """Embedding of the codes of sound, `bos` before the first. If there are classes, a label is added at each position.

    The label is added everywhere because a model that heard it once would have to remember it for thousands of samples.
    Neighbouring codes begin with similar vectors (`smooth_codes`), so that the model need not find out first which of
    them are alike. With `recent`, a linear map of that many last samples, as numbers from -1 to 1, is added; bos and
    everything before it count as 0.
    """

    def __init__(self, layout: AudioLayout, d_model: int, recent: int = 0) -> None:
        super().__init__()
        self.samples = nn.Linear(recent, d_model, bias=False) if recent else None
        self.layout = layout
        self.bos = layout.vocab
        self.value = nn.Embedding(layout.vocab + 1, d_model)
        self.label = nn.Embedding(len(layout.classes), d_model) if layout.classes else None
        for table in (self.value, self.label):
            if table is not None:
                nn.init.normal_(table.weight, std=0.5)
        with torch.no_grad():
            self.value.weight[: layout.vocab] = smooth_codes(layout.vocab, d_model)

    def forward(self, tokens: Tensor, label: Tensor | None, before: Tensor | None = None) -> Tensor:
        """Return r(B, L, H) for tokens int64 (B, L) as fed, and label int64 (B,), if there are classes.

        With `recent`, before int64 (B, recent - 1) are the tokens before the first one; bos among them counts as 0.
        """
        x = self.value(tokens)
        if self.label is not None and label is not None:
            x = x + self.label(label)[:, None]
        if self.samples is not None and before is not None:
            amplitude = self.amplitude(torch.cat((before, tokens), dim=1)).to(x.dtype)
            x = x + self.samples(amplitude.unfold(1, self.samples.in_features, 1)).to(x.dtype)
        return x

    def amplitude(self, tokens: Tensor) -> Tensor:
        """Turn codes int64 (...) into numbers r(...) from -1 to 1; bos becomes 0."""
        amplitude = tokens.to(self.value.weight.dtype) * (2 / (self.layout.vocab - 1)) - 1
        return torch.where(tokens == self.bos, 0, amplitude)


def smooth_codes(levels: int, d_model: int) -> Tensor:
    """Return vectors r(levels, d_model) for the codes of a signal; each column is a smooth curve over the codes.

    With v from -1 to 1 for code 0 to levels - 1, a quarter of the columns are sign(v) (e^(g |v|) - 1), g from 0.5 to 6:
    the signal itself where the codes are linear, and where they are mu-law (g = 5.5). The others are cosines of rising
    frequency and falling size. The root mean square of a column is 0.5 at most.
    """
    v = (2 * torch.arange(levels) + 1) / levels - 1
    n = d_model // 4
    odd = v.sign()[:, None] * torch.expm1(torch.linspace(0.5, 6, n) * v.abs()[:, None])
    k = torch.arange(1, d_model - n + 1)
    even = _cosines(v, k)
    return 0.5 * torch.cat((odd / _rms(odd), even / _rms(even) / (1 + k / 8)), dim=1)


def smooth_head(levels: int, d_model: int) -> Tensor:
    """Return weights r(levels, d_model) of a head whose logits are, to begin with, smooth curves over the codes.

    They are random sums of cosines, scaled so that inputs of unit size give logits of size 0.3.
    """
    v = (2 * torch.arange(levels) + 1) / levels - 1
    k = torch.arange(1, d_model + 1)
    rotation = torch.linalg.qr(torch.randn(d_model, d_model))[0]
    weight = (_cosines(v, k) / (1 + k / 4)) @ rotation
    return 0.3 * weight / weight.square().sum(1).mean().sqrt()


def _cosines(v: Tensor, k: Tensor) -> Tensor:
    """Return cos(pi k (v + 1) / 2), r(levels, len(k)). From k = levels on curves would repeat, so k starts anew."""
    return torch.cos(torch.pi * (1 + (k - 1) % (len(v) - 1)) * (v[:, None] + 1) / 2)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(0).sqrt()
