"""What the sequences are: images of one size, or text of one vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from s4gen.config.checks import ConfigError, at_least


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

    def __post_init__(self) -> None:
        at_least(1, "layout", vocab=self.vocab, length=self.length)
        if not 0 <= self.start < self.vocab:
            raise ConfigError("layout.start", f"= {self.start}: expected 0 to {self.vocab - 1}, one of the tokens")


Layout = ImageLayout | TextLayout
