"""Which word is it: whole recordings -> classes, by state space layers in both directions. Not a density model.

    samples -> unit peak -> log spectrum, 100 frames a second -> linear -> blocks -> mean over frames -> linear

Only what lies within a recording's length counts: neither the padding of a batch nor loudness changes a logit.
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
"""Per second. A frame sees a window of twice its own stretch: short enough that no harmonic of a voice stands alone."""

FLOOR = 1e-5
"""Power, of a full-scale sine's, below which a frequency is taken for silent: -50 dB."""


class ClassifierModel(nn.Module):
    """Logits of the classes of recordings, described by the same tables as a density model of sound.

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
        """samples r(B, L) at the layout's rate -> logits r(B, classes); rows end after `lengths`, int64 (B,), samples.

        Raises ValueError for shapes and lengths that do not fit.
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
    """samples r(B, L), each row divided by its largest magnitude, and 0 from `lengths` on; silence stays silence."""
    inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
    samples = torch.where(inside, samples, 0)
    return samples / samples.abs().amax(1, keepdim=True).clamp_min(1e-8)


def frame_stride(rate: int) -> int:
    """Samples from one frame to the next; a window of two strides has one more frequency than that."""
    return max(1, rate // FRAMES)


def log_spectrum(samples: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Frames r(B, T, stride + 1) of samples r(B, L), 0 (silent) to about 1 (full scale), and how many each row has.

    Frame t is a Hann window round the samples t stride to (t + 1) stride. What is beyond `lengths` must be 0.
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
    """Mean r(B, H) of the first `counts` positions of x r(B, T, H)."""
    inside = torch.arange(x.shape[1], device=x.device) < counts[:, None]
    return torch.where(inside[..., None], x, 0).sum(1) / counts.clamp_min(1)[:, None]
