"""The layouts, which say what sequences are: images of one size, text of one vocabulary, or sound of one format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from s4gen.config.checks import ConfigError, at_least, one_of

RATES = range(100, 1_000_001)
"""Samples per second that sound can have."""
EXPECTED_RATES = f"expected {RATES[0]} to {RATES[-1]}"
"""These rates in the words of a message."""
BITS = range(2, 17)
"""Bits that the code of a sample can have."""
LAWS = ("mu-law", "linear")
NORMALISATIONS = ("none", "peak", "minmax")


@dataclass(frozen=True)
class ImageLayout:
    """Images of one size as sequences: rows from the top, pixels from the left, channels interleaved."""

    kind: ClassVar[str] = "image"

    height: int
    """Rows."""
    width: int
    """Pixels per row."""
    channels: int
    """Values per pixel: 1 grey, 3 red, green, blue."""
    levels: int = 256
    """Number of values a channel can take: 0 to levels - 1."""
    classes: tuple[str, ...] = ()
    """Names of the labels that every image is conditional on; empty: none."""

    def __post_init__(self) -> None:
        at_least(1, "layout", height=self.height, width=self.width, channels=self.channels)
        if not 2 <= self.levels <= 256:
            raise ConfigError("layout.levels", f"= {self.levels}: expected 2 to 256, what a byte holds")

    @property
    def length(self) -> int:
        """Tokens in one image."""
        return self.height * self.width * self.channels

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return self.levels


@dataclass(frozen=True)
class TextLayout:
    """Text of any length as tokens of one vocabulary."""

    kind: ClassVar[str] = "text"

    vocab: int
    """Number of different tokens."""
    start: int
    """The token that is fed before everything: the tokeniser's <eos>."""
    length: int = 1024
    """Tokens of a sequence where one length is wanted: by the benchmark, and by the converter's check."""
    bare_prompts: bool = False
    """A prompt is what is fed first; `start` is fed where there is no prompt only. So it is for models that were
    trained without a token before everything."""

    def __post_init__(self) -> None:
        at_least(1, "layout", vocab=self.vocab, length=self.length)
        if not 0 <= self.start < self.vocab:
            raise ConfigError("layout.start", f"= {self.start}: expected 0 to {self.vocab - 1}, one of the tokens")


@dataclass(frozen=True)
class AudioLayout:
    """Mono sound of any length, a code for every sample (s4gen.data.audio)."""

    kind: ClassVar[str] = "audio"

    rate: int
    """Samples per second."""
    law: str = "mu-law"
    """mu-law or linear: how samples become codes."""
    bits: int = 8
    """Bits of a code."""
    normalise: str = "none"
    """none, peak or minmax: what happened to recordings before."""
    classes: tuple[str, ...] = ()
    """Names of the labels that every sequence is conditional on; empty: none."""

    def __post_init__(self) -> None:
        check_sound("layout", self.rate, self.law, self.bits, self.normalise)

    @property
    def length(self) -> int:
        """Samples of a sequence where one length is wanted, by the benchmark and the converter's check: a second."""
        return self.rate

    @property
    def vocab(self) -> int:
        """Number of different codes."""
        return int(2**self.bits)


def check_sound(section: str, rate: int, law: str, bits: int, normalise: str) -> None:
    """Refuse an impossible format of sound; messages name the values as keys of `section`.

    Raises:
        ConfigError: rate, law, bits or normalisation are none of those above.
    """
    if rate not in RATES:
        raise ConfigError(f"{section}.rate", f"= {rate}: {EXPECTED_RATES} samples per second")
    one_of(LAWS, f"{section}.law", law)
    if bits not in BITS:
        raise ConfigError(f"{section}.bits", f"= {bits}: expected {BITS[0]} to {BITS[-1]}")
    one_of(NORMALISATIONS, f"{section}.normalise", normalise)


Layout = ImageLayout | TextLayout | AudioLayout
