"""Layouts say what the sequences are: images of one size, text of one vocabulary, or sound of one format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from s4gen.config.checks import ConfigError, at_least, one_of
from s4gen.config.names import SERIES

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
    """Images of one size as sequences: row by row from the top, pixels from the left, channels side by side."""

    kind: ClassVar[str] = "image"
    unit: ClassVar[str] = "bits/dim"
    """The unit in which the cost of a token, -log2 p, is reported."""

    height: int
    """Rows of an image."""
    width: int
    """Pixels in a row."""
    channels: int
    """Values of a pixel: 1 for grey, 3 for red, green and blue."""
    levels: int = 256
    """How many values a channel can have: 0 to levels - 1."""
    classes: tuple[str, ...] = ()
    """Names of the classes that the model is conditional on; empty if there are none."""

    def __post_init__(self) -> None:
        at_least(1, "layout", height=self.height, width=self.width, channels=self.channels)
        if not 2 <= self.levels <= 256:
            raise ConfigError("layout.levels", f"= {self.levels}: expected 2 to 256, what a byte holds")

    @property
    def length(self) -> int:
        """How many tokens an image has."""
        return self.height * self.width * self.channels

    @property
    def vocab(self) -> int:
        """How many different tokens there are."""
        return self.levels


@dataclass(frozen=True)
class TextLayout:
    """Texts of any length as sequences of tokens of one vocabulary."""

    kind: ClassVar[str] = "text"
    unit: ClassVar[str] = "bits/token"
    """The unit in which the cost of a token, -log2 p, is reported."""

    vocab: int
    """How many different tokens there are."""
    start: int
    """The token that is fed in front of every text, which is the tokeniser's <eos>."""
    length: int = 1024
    """Tokens of a sequence where one length is needed: in the benchmark and in the converter's check."""
    bare_prompts: bool = False
    """Whether a prompt is fed without `start` in front of it, as models need that were trained without such a token.
    `start` is then fed only if there is no prompt."""

    def __post_init__(self) -> None:
        at_least(1, "layout", vocab=self.vocab, length=self.length)
        if not 0 <= self.start < self.vocab:
            raise ConfigError("layout.start", f"= {self.start}: expected 0 to {self.vocab - 1}, one of the tokens")


@dataclass(frozen=True)
class AudioLayout:
    """Mono sound of any length as sequences of codes, one for every sample; see s4gen.data.audio."""

    kind: ClassVar[str] = "audio"
    unit: ClassVar[str] = "bits/sample"
    """The unit in which the cost of a token, -log2 p, is reported."""

    rate: int
    """Samples per second."""
    law: str = "mu-law"
    """The curve from samples to codes: mu-law or linear."""
    bits: int = 8
    """Bits of a code."""
    normalise: str = "none"
    """How recordings were scaled before they were coded: none, peak or minmax."""
    classes: tuple[str, ...] = ()
    """Names of the classes that the model is conditional on; empty if there are none."""

    def __post_init__(self) -> None:
        check_sound("layout", self.rate, self.law, self.bits, self.normalise)

    @property
    def length(self) -> int:
        """Samples of a sequence for those who need one length, the benchmark and the converter's check: a second."""
        return self.rate

    @property
    def vocab(self) -> int:
        """How many different codes there are."""
        return int(2**self.bits)


@dataclass(frozen=True)
class SeriesLayout:
    """Rows of real numbers of any length: at each position the values of some columns, and then what the time says."""

    kind: ClassVar[str] = SERIES
    unit: ClassVar[str] = "standardised units"
    """The unit of a value: it has mean 0 and variance 1 over the training part."""

    columns: tuple[str, ...]
    """Names of the columns; for arrays these are just their numbers."""
    mean: tuple[float, ...]
    """The mean of each column over the training part, which is subtracted from its values."""
    std: tuple[float, ...]
    """The standard deviation of each column over the training part, by which its values are divided."""
    times: tuple[str, ...] = ()
    """Names of the features of the time, which stand behind the columns, such as hour or weekday."""
    length: int = 1024
    """Positions of a row for those who need one length, such as `s4gen info`."""

    def __post_init__(self) -> None:
        at_least(1, "layout", length=self.length)
        if not self.columns or len({len(self.columns), len(self.mean), len(self.std)}) > 1:
            raise ConfigError(
                "layout.columns", f"= {list(self.columns)}: expected a mean and a std for each, at least one"
            )
        if not all(0 < std < math.inf for std in self.std) or not all(map(math.isfinite, self.mean)):
            raise ConfigError(
                "layout.std", f"= {list(self.std)}: expected finite numbers greater than 0, and finite means"
            )

    @property
    def channels(self) -> int:
        """How many numbers stand at each position."""
        return len(self.columns) + len(self.times)


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
"""The layouts that density models have."""
InputLayout = Layout | SeriesLayout
"""The layouts of what predictors read."""
