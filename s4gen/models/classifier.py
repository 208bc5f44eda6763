"""A classifier of recordings by state space layers in both directions: which word is it? It is no density model.

    samples -> unit peak -> log spectrum, 100 frames a second -> linear -> blocks -> mean over frames -> linear

Only what lies within a recording's length counts. Neither the padding of a batch nor loudness changes a logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.config import AudioLayout, DensityConfig
from s4gen.config.checks import ConfigError
from s4gen.config.mixers import MIXERS
from s4gen.models.bidirectional import Bidirectional
from s4gen.models.blocks import make_blocks
from s4gen.models.mixers import make_mixer
from s4gen.models.ssm_layers import check_lengths

FRAMES = 100
"""Frames per second. A frame sees a window of twice its own length, too short to resolve the harmonics of a voice."""

FLOOR = 1e-5
"""The power below which a frequency counts as silent, as a share of a full-scale sine's: -50 dB."""


class ClassifierModel(nn.Module):
    """A model that gives logits of classes, configured by the same tables as a density model of sound.

    Raises:
        ConfigError: the layout is not one of sound with at least two classes, or the stack has no state space layers.
    """

    def __init__(self, config: DensityConfig) -> None:
        super().__init__()
        layout, model, ssm = config.layout, config.model, config.ssm
        if not isinstance(layout, AudioLayout) or len(layout.classes) < 2:
            raise ConfigError("layout.classes", "names less than two classes of sound: there is nothing to tell apart")
        if model.traits.mixes_features or model.pool:
            expected = ", ".join(mixer.name for mixer in MIXERS.values() if not mixer.mixes_features)
            raise ConfigError("model.mixer", f'= "{model.mixer}": expected one of {expected}, without model.pool')
        self.config, self.rate = config, layout.rate
        self.embedding = nn.Linear(frame_stride(layout.rate) + 1, model.d_model)
        blocks = list(make_blocks(model, ssm))
        for block in blocks:
            block.mixer = Bidirectional(block.mixer, make_mixer(model, ssm))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(model.d_model)
        self.head = nn.Linear(model.d_model, len(layout.classes))

    def forward(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits r(B, classes) of samples r(B, L) at the layout's rate; row b ends after lengths[b] of them.

        Raises:
            ValueError: shapes or lengths do not fit.
        """
        if samples.dim() != 2 or not samples.shape[1]:
            raise ValueError(f"samples have shape {tuple(samples.shape)}, expected (batch, length >= 1)")
        if lengths is None:
            lengths = torch.full((len(samples),), samples.shape[1], device=samples.device)
        check_lengths(lengths, samples)
        x, counts = log_spectrum(unit_peak(samples, lengths), lengths, self.rate)
        x = self.embedding(x)
        for block in self.blocks:
            x, _ = block(x, None, counts)
        return self.head(_mean(self.norm(x), counts))


def unit_peak(samples: Tensor, lengths: Tensor) -> Tensor:
    """Divide each row of samples r(B, L) by its largest magnitude, and set it to 0 from `lengths` on.

    Silence stays silence.
    """
    inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
    samples = torch.where(inside, samples, 0)
    return samples / samples.abs().amax(1, keepdim=True).clamp_min(1e-8)


def frame_stride(rate: int) -> int:
    """Return the samples from one frame to the next. A window of two strides has stride + 1 frequencies."""
    return max(1, rate // FRAMES)


def log_spectrum(samples: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Return frames r(B, T, stride + 1) of samples r(B, L), and how many of them each row has, int64 (B,).

    Values run from 0 (silent) to about 1 (full scale). Frame t is a Hann window around the samples t stride to
    (t + 1) stride. Samples beyond `lengths` must be 0.
    """
    stride = frame_stride(rate)
    n_frames = -(-samples.shape[1] // stride)
    before = stride // 2
    padded = F.pad(samples, (before, (n_frames + 1) * stride - before - samples.shape[1]))
    window = torch.hann_window(2 * stride, dtype=samples.dtype, device=samples.device)
    spectrum = torch.fft.rfft(padded.unfold(1, 2 * stride, stride) * (2 / window.sum() * window))
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log1p(power / FLOOR) / torch.log1p(power.new_tensor(1 / FLOOR)), -(-lengths // stride)


def _mean(x: Tensor, counts: Tensor) -> Tensor:
    """Average the first `counts` positions of x r(B, T, H): r(B, H)."""
    inside = torch.arange(x.shape[1], device=x.device) < counts[:, None]
    return torch.where(inside[..., None], x, 0).sum(1) / counts.clamp_min(1)[:, None]
