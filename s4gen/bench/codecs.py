"""The codecs that compression by a model is measured beside: pairs of functions on arrays, lossless, at their tightest.

Pillow writes PNG and WebP, soundfile FLAC, Python xz. JPEG-LS, JPEG XL and Zstandard need `imagecodecs`
(`pip install s4gen[codecs]`); without it they are left out.
"""

from __future__ import annotations

import importlib.util
import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Content = NDArray[Any]
"""Pixels uint8 (h, w, c), samples int16 (n,) or bytes uint8 (n,)."""
NEEDS_IMAGECODECS = ("JPEG-LS", "JPEG XL", "zstd")


@dataclass(frozen=True)
class Codec:
    """A way to compress contents one by one."""

    name: str
    encode: Callable[[Content], bytes]
    """Compresses a content."""
    decode: Callable[[bytes], Content]
    """Undoes it, up to the shape."""


def codecs_for(kind: str, rate: int = 0) -> list[Codec]:
    """Return the codecs for contents of a kind; sound has so many samples per second."""
    general = [Codec("xz -9e", _xz, lambda packed: _bytes(lzma.decompress(packed)))]
    special: list[Codec] = []
    if kind == "image":
        special += [Codec("PNG", _pillow("PNG", optimize=True), _pixels)]
        special += [Codec("WebP lossless", _pillow("WEBP", lossless=True, quality=100, method=6), _pixels)]
    if kind == "audio":
        special += [Codec("FLAC", lambda samples: _flac(samples, rate), _samples)]
    if has_imagecodecs():
        import imagecodecs

        if kind == "image":
            special += [
                Codec(
                    "JPEG-LS",
                    lambda pixels: bytes(imagecodecs.jpegls_encode(pixels.squeeze())),
                    imagecodecs.jpegls_decode,
                ),
                Codec(
                    "JPEG XL lossless",
                    lambda pixels: bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=9)),
                    imagecodecs.jpegxl_decode,
                ),
            ]
        general += [
            Codec(
                "zstd -22",
                lambda content: bytes(imagecodecs.zstd_encode(content.tobytes(), level=22)),
                lambda packed: _bytes(imagecodecs.zstd_decode(packed)),
            )
        ]
    return special + general


def has_imagecodecs() -> bool:
    """Return whether the package is installed."""
    return importlib.util.find_spec("imagecodecs") is not None


def _xz(content: Content) -> bytes:
    return lzma.compress(content.tobytes(), preset=9 | lzma.PRESET_EXTREME)


def _bytes(content: bytes | bytearray) -> Content:
    return np.frombuffer(content, dtype=np.uint8)


def _pillow(format: str, **settings: Any) -> Callable[[Content], bytes]:
    def encode(pixels: Content) -> bytes:
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(content, format=format, **settings)
        return content.getvalue()

    return encode


def _pixels(packed: bytes) -> Content:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(packed)))


def _flac(samples: Content, rate: int) -> bytes:
    import soundfile  # type: ignore[import-untyped]

    content = io.BytesIO()
    soundfile.write(content, samples, rate, "PCM_16", format="FLAC", compression_level=1.0)
    return content.getvalue()


def _samples(packed: bytes) -> Content:
    import soundfile

    return np.asarray(soundfile.read(io.BytesIO(packed), dtype="int16")[0])
