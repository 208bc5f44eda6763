"""What every clip of a set is turned into: sampling rate, quantisation, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from s4gen.config.layouts import NORMALISATIONS, RATES
from s4gen.data.audio.quantise import Quantiser
from s4gen.errors import UserError


@dataclass(frozen=True)
class AudioFormat:
    """Mono sound at one rate as one code per sample."""

    rate: int
    """Samples per second; recordings at other rates are converted."""
    law: str = "mu-law"
    """mu-law or linear."""
    bits: int = 8
    """Bits of a code."""
    normalise: str = "none"
    """What happens to each recording before quantisation.

    none: nothing; beyond full scale it is clipped. peak: divided by its largest magnitude, so silence stays silence.
    minmax: its lowest value becomes -1 and its highest 1, as the published numbers of SaShiMi, WaveNet and SampleRNN
    have it (their code scales every crop; here it is the whole recording).

    Bits per sample are comparable only between equal normalisations. Louder clips cost more. And minmax moves silence
    off zero where the two ends differ, to where mu-law is coarse: the test clips of fsdd take FLAC 5.6 bits per sample
    as they are, 6.7 with peak and 5.5 with minmax.
    """

    def __post_init__(self) -> None:
        if self.rate not in RATES:
            raise UserError(f"a sampling rate of {self.rate}: expected 100 to 1000000 samples per second")
        if self.normalise not in NORMALISATIONS:
            raise UserError(f"no normalisation called {self.normalise!r}: expected one of {', '.join(NORMALISATIONS)}")
        self.quantiser  # noqa: B018 - checks law and bits

    @property
    def quantiser(self) -> Quantiser:
        """Samples <-> codes."""
        return Quantiser(self.law, self.bits)
