"""The log spectrum of recordings, 100 frames a second, in which neither loudness nor padding counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES = 100
"""Frames per second. A frame sees a window of twice its own length, too short to resolve the harmonics of a voice."""

FLOOR = 1e-5
"""The power below which a frequency counts as silent, as a share of a full-scale sine's: -50 dB."""


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
