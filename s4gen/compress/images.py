"""Images to tokens and back: what is kept are the pixels, and they come back as PNG."""

from __future__ import annotations

from pathlib import Path

import torch

from s4gen.compress.coding import Whole
from s4gen.compress.contents import Item
from s4gen.config import ImageLayout
from s4gen.data.images import png, read_image, to_sequence
from s4gen.data.pictures import UnusableError, opened
from s4gen.errors import UserError

ORIENTATION = 0x0112
"""The number of the EXIF tag that says which way is up."""


class Images:
    """Images of one layout."""

    suffix = ".png"

    def __init__(self, layout: ImageLayout) -> None:
        """Take the layout of the model."""
        self._layout, self.length = layout, layout.length

    def read(self, path: Path, lossy: bool) -> Item:
        """Read the pixels of an image; see `Contents`. Any format will do, but nothing that is shown may be lost."""
        pixels = read_image(path, self._layout)
        if not lossy:
            self._check(path)
        tokens = to_sequence(pixels[None])[0].numpy()
        return Item(path, path.stem + self.suffix, pixels.nbytes, tokens)

    def widths(self, extra: bytes) -> None:
        """Return None: a token is a value."""
        if extra:
            raise ValueError("an image has extra bytes")

    def restore(self, tokens: Whole, fine: Whole | None, extra: bytes) -> bytes:
        """Return the image as PNG; see `Contents`."""
        return png(torch.from_numpy(tokens), self._layout)

    def _check(self, path: Path) -> None:
        """Refuse a file of which the pixels are not all that is shown.

        Raises:
            UserError: it has several pictures, or is to be turned before it is shown.
        """
        try:
            with opened(path) as image:
                several, turned = getattr(image, "n_frames", 1), image.getexif().get(ORIENTATION, 1)
        except UnusableError as error:
            raise UserError(f"{path} {error}") from error
        if several > 1:
            raise UserError(f"{path} holds {several} pictures, and one would be kept; --lossy keeps the first alone")
        if turned != 1:
            raise UserError(
                f"{path} is to be turned before it is shown, which PNG cannot say; turn it, or give --lossy to keep "
                "its pixels as they lie"
            )
