"""Read a picture of any format that PIL reads, and bring it to the size and the channels that a data set wants."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.config.names import UNREADABLE_IMAGES
from s4gen.data.quiet import quiet
from s4gen.errors import shortened
from s4gen.files.reading import LARGE, open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP = {"I;16": 257.0, "I;16L": 257.0, "I;16B": 257.0, "I;16N": 257.0}
"""PIL's modes of 16 bits, with the size in them of one shade of 8 bits."""


LARGEST = 1 << 26
"""Pixels of a picture, 8192 x 8192. A file of a few kilobytes can claim, and hold, any number of them."""
RUNS_PROGRAMS = ("EPS", "WMF")
"""Formats of PIL that are programs, which other software would run to draw the picture; they are not read."""


class UnusableError(Exception):
    """Why a picture cannot be used, in a few words."""


@dataclass(frozen=True)
class ImageFormat:
    """The form that every picture of a set is brought to."""

    height: int = 0
    """Rows of a picture. 0 leaves sizes as they are, and then all pictures must have the same size."""
    width: int = 0
    """Pixels of a row. 0 goes with 0 rows."""
    channels: int = 0
    """1 for grey, 3 for red, green and blue; 0 takes 3 if any picture of the set has a colour, else 1."""
    fit: str = "crop"
    """crop scales until the shorter side fits and keeps the middle of the longer; stretch scales both sides."""


@dataclass(frozen=True)
class Seen:
    """The things done to a picture besides scaling it down."""

    enlarged: bool
    """Whether the picture was smaller than wanted."""
    transparent: bool
    """Whether it was transparent in places, and so was laid on white."""
    animated: bool
    """Whether the file has further pictures, which were left out."""


def is_picture(name: str) -> bool:
    """Tell by its ending whether a file counts as a picture."""
    return Path(name).suffix.lower() in _endings()


@functools.cache
def _endings() -> frozenset[str]:
    from PIL import Image

    known = Image.registered_extensions()  # this loads the formats
    return frozenset({ending for ending, kind in known.items() if kind in Image.OPEN} | set(UNREADABLE_IMAGES))


def read_picture(source: Path | BinaryIO, format: ImageFormat) -> tuple[NDArray[np.uint8], Seen]:
    """Read the pixels, uint8 (h, w, c), c = 1 where `format.channels` is 1, else 3; and what was done to them.

    It is turned upright where the camera says how, and of several pictures in a file the first one counts. Shades are
    scaled from 16 to 8 bits, and a transparent picture is laid on white. Scaling averages (Lanczos), so nothing is
    aliased.

    Raises:
        UnusableError: it is not there, damaged, no picture, or too large.
    """
    from PIL import ImageOps

    with opened(source) as image:
        several = getattr(image, "n_frames", 1) > 1
        if format.height:
            # A large JPEG is decoded smaller, and faster.
            image.draft("RGB", (4 * format.width, 4 * format.height))
        check_size(image)
        plain, transparent = _plain(ImageOps.exif_transpose(image))
        enlarged = bool(format.height) and (plain.width < format.width or plain.height < format.height)
        plain = _fitted(plain, format)
        pixels = np.asarray(plain.convert("L") if format.channels == 1 else plain)
    return pixels.reshape(*pixels.shape[:2], -1), Seen(enlarged, transparent, several)


@contextlib.contextmanager
def opened(source: Path | BinaryIO) -> Iterator[Image]:
    """Open a picture, of which only the header is read yet; whatever goes wrong while it is decoded is explained, too.

    Raises:
        UnusableError: it is not there, no regular file, damaged, no picture, or too large.
    """
    from PIL import Image

    Image.init()  # so that all formats are known
    known = [name for name in Image.OPEN if name not in RUNS_PROGRAMS]
    try:
        with (
            warnings.catch_warnings(),
            quiet(),
            open_regular(source) if isinstance(source, Path) else source as file,
        ):
            warnings.simplefilter("ignore")  # of the metadata, and of sizes far below what is too large
            size = file.seek(0, os.SEEK_END)
            if size > LARGE:
                raise UnusableError(f"has {size:,} bytes: expected at most {LARGE:,}")
            file.seek(0)
            with Image.open(file, formats=known) as image:
                yield image
    except UnusableError:
        raise
    # The decoders of PIL raise whatever their arithmetic does with a damaged file.
    except Exception as error:
        raise UnusableError(f"cannot be read ({reason(error)})") from error


def check_size(image: Image) -> None:
    """Refuse a picture with more pixels than fit in memory, before it is decoded.

    Raises:
        UnusableError: it has more than `LARGEST`, or none.
    """
    if not 0 < image.width * image.height <= LARGEST:
        raise UnusableError(f"has {image.width} x {image.height} pixels: expected 1 to {LARGEST:,} in all")


def read_bytes(content: bytes | None, format: ImageFormat) -> tuple[NDArray[np.uint8], Seen]:
    """Do what `read_picture` does with the bytes of a file.

    Raises:
        UnusableError: as for `read_picture`; or there are no bytes.
    """
    if not content:
        raise UnusableError("holds no bytes")
    return read_picture(io.BytesIO(content), format)


def _plain(image: Any) -> tuple[Any, bool]:
    """Return the image in mode RGB, and whether any of it was transparent."""
    from PIL import Image

    if image.mode in _DEEP:
        shades = np.rint(np.asarray(image).astype(np.float64) / _DEEP[image.mode]).clip(0, 255)
        image = Image.fromarray(shades.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its shades are numbers of 32 bits, mode {image.mode}, whose range it does not say")
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB"), False
    layered = image.convert("RGBA")
    if layered.getextrema()[3][0] == 255:
        return layered.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB"), True


def _fitted(image: Any, format: ImageFormat) -> Any:
    """Return the image in the size of the format."""
    from PIL import Image, ImageOps

    wanted = (format.width, format.height)
    if not format.height or image.size == wanted:
        return image
    if format.fit == "stretch":
        return image.resize(wanted, Image.Resampling.LANCZOS)
    return ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)


def reason(error: BaseException) -> str:
    """Return the words of an error of PIL or of the system, in one line."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return "no picture" if text.startswith("cannot identify image file") else shortened(" ".join(text.split()))
