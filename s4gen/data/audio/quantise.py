"""Sound as integers and back: mu-law and linear quantisation with any number of bits.

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

from s4gen.config.layouts import BITS, LAWS
from s4gen.errors import UserError

Codes = NDArray[np.integer[Any]]
Samples = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Quantiser:
    """Sound in [-1, 1] <-> codes 0 to 2^bits - 1. `encode(decode(c)) == c` for every code."""

    law: str = "mu-law"
    """mu-law: fine steps where it is quiet, as the ear hears; linear: equal steps."""
    bits: int = 8
    """Bits of a code, 2 to 16."""

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UserError(f"no quantisation called {self.law!r}: expected one of {', '.join(LAWS)}")
        if self.bits not in BITS:
            raise UserError(f"{self.bits} bits a sample: expected 2 to 16")

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
        """Codes of samples, in the same shape and of `dtype`; what lies beyond -1 ... 1 is clipped.

        Raises:
            ValueError: a sample is NaN or infinite.
        """
        if not np.isfinite(samples).all():
            raise ValueError("a sample is not a finite number")
        return np.searchsorted(_thresholds(self.law, self.bits), samples, side="right").astype(self.dtype)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Samples of codes, in the same shape.

        Raises:
            ValueError: a code is negative or too large.
        """
        if codes.size and not 0 <= codes.min() <= codes.max() < self.levels:
            raise ValueError(f"expected codes 0 to {self.levels - 1}, got {codes.min()} to {codes.max()}")
        return _values(self.law, self.bits, 0.0).astype(np.float32)[codes]


def _thresholds(law: str, bits: int) -> NDArray[np.float64]:
    """The 2^bits - 1 values between neighbouring codes, half a level above each but the last."""
    return _values(law, bits, 0.5)[:-1]


@cache
def _values(law: str, bits: int, offset: float) -> NDArray[np.float64]:
    """x at v = (c + offset) / 2^(bits - 1) - 1 for every code c, ascending."""
    v = (np.arange(1 << bits) + offset) / (1 << (bits - 1)) - 1
    if law == "linear":
        return v
    mu = (1 << bits) - 1
    return np.sign(v) * np.expm1(np.abs(v) * np.log1p(mu)) / mu
