"""Code sound: at one rate, normalised or not, with integers for samples by mu-law or linear quantisation.

Code c of 2^bits stands for the value x(v) at v = c / 2^(bits - 1) - 1, from -1 to just below 1:

    linear   x = v
    mu-law   x = sign(v) ((1 + mu)^|v| - 1) / mu,     mu = 2^bits - 1

These are the levels of the published SaShiMi code: silence, x = 0, is code 2^(bits - 1) (128 of 256), and linear codes
less 128 are signed 8-bit PCM. A sample becomes the code whose v is nearest to its own. The published encoder rounds v
down instead, so that about half of its codes are one lower: an offset of half a level, and twice the largest error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config.layouts import AudioLayout, check_sound

Codes = NDArray[np.integer[Any]]
Samples = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Quantiser:
    """Turns sound in [-1, 1] into codes 0 to 2^bits - 1 and back; `encode(decode(c)) == c` for every code.

    Law and bits are those of an `AudioFormat`, which has checked them.
    """

    law: str = "mu-law"
    """mu-law: fine steps where it is quiet, as the ear hears; linear: equal steps."""
    bits: int = 8
    """Bits of a code, 2 to 16."""

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 1 << self.bits

    @property
    def silence(self) -> int:
        """The code of 0.0, which decodes to exactly 0.0."""
        return self.levels // 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds a code: uint8 or uint16."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    def encode(self, samples: Samples) -> Codes:
        """Return the codes of samples, in the same shape and of `dtype`; what lies beyond -1 ... 1 is clipped.

        Raises:
            ValueError: a sample is NaN or infinite.
        """
        if not np.isfinite(samples).all():
            raise ValueError("a sample is not a finite number")
        return np.searchsorted(_thresholds(self.law, self.bits), samples, side="right").astype(self.dtype)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Return the samples of codes, in the same shape.

        Raises:
            ValueError: a code is negative or too large.
        """
        if codes.size and not 0 <= codes.min() <= codes.max() < self.levels:
            raise ValueError(f"expected codes 0 to {self.levels - 1}, got {codes.min()} to {codes.max()}")
        return _values(self.law, self.bits, 0.0).astype(np.float32)[codes]


@dataclass(frozen=True)
class AudioFormat:
    """The format that every clip of a set is brought into: mono sound at one rate, one code per sample.

    Raises:
        ConfigError: rate, law, bits or normalisation are none that sound can have.
    """

    rate: int
    """Samples per second; recordings at other rates are converted."""
    law: str = "mu-law"
    """mu-law or linear."""
    bits: int = 8
    """Bits of a code."""
    normalise: str = "none"
    """The way in which each recording is scaled before quantisation.

    none: nothing; beyond full scale it is clipped. peak: divided by its largest magnitude, so silence stays silence.
    minmax: its lowest value becomes -1 and its highest 1, as the published numbers of SaShiMi, WaveNet and SampleRNN
    have it (their code scales every crop; here it is the whole recording).

    Bits per sample are comparable only between equal normalisations. Louder clips cost more. And minmax moves silence
    off zero where the two ends differ, to where mu-law is coarse: the test clips of fsdd take FLAC 5.6 bits per sample
    as they are, 6.7 with peak and 5.5 with minmax.
    """

    def __post_init__(self) -> None:
        check_sound("format", self.rate, self.law, self.bits, self.normalise)

    @property
    def quantiser(self) -> Quantiser:
        """The map between samples and codes."""
        return Quantiser(self.law, self.bits)


def format_of(layout: AudioLayout) -> AudioFormat:
    """Return what clips must be turned into for a model of this layout."""
    return AudioFormat(layout.rate, layout.law, layout.bits, layout.normalise)


def _thresholds(law: str, bits: int) -> NDArray[np.float64]:
    """Return the 2^bits - 1 values between neighbouring codes, half a level above each but the last."""
    return _values(law, bits, 0.5)[:-1]


@cache
def _values(law: str, bits: int, offset: float) -> NDArray[np.float64]:
    """Return x at v = (c + offset) / 2^(bits - 1) - 1 for every code c, ascending."""
    v = (np.arange(1 << bits) + offset) / (1 << (bits - 1)) - 1
    if law == "linear":
        return v
    mu = (1 << bits) - 1
    return np.sign(v) * np.expm1(np.abs(v) * np.log1p(mu)) / mu
