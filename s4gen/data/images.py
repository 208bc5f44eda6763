"""Turn images into integer sequences and PNG files, and back.

An image is a uint8 array (height, width, channels). As a sequence its values are in raster order: rows from
the top, pixels from the left, the channels of a pixel side by side, r g b r g b ...
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.config import ImageLayout
from s4gen.data.pictures import UnusableError, opened, reason
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic

if TYPE_CHECKING:
    from torch import Tensor


EXACT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""PIL's modes of at most 8 bits per channel, which become RGBA without loss."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one layout with their labels."""

    images: NDArray[np.uint8]
    """(n, height, width, channels); treat as read-only."""
    labels: NDArray[np.int64]
    """(n,) class of each image."""
    layout: ImageLayout
    """The size and the levels that every image has."""
    name: str
    """The data set: mnist, cifar10-mini, ..."""
    split: str
    """train, validation or test."""
    source: str
    """The place that it was read from: S4GEN_DATA, torchvision, s4gen itself, or the user's own."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty where images have none, and then all labels are -1."""
    notes: tuple[str, ...] = ()
    """Lines for the user that say what became of the images."""

    def __len__(self) -> int:
        return len(self.images)


def layout_of(images: ImageSet, labelled: bool) -> ImageLayout:
    """Return the layout of a model of these images, which is conditional on their labels or not.

    Raises:
        UserError: `labelled` is set and the images have no labels.
    """
    if labelled and not images.classes:
        raise UserError(
            f"data.labels = true: the images of {images.name} have no labels; put each class into a folder of its own, "
            "or leave it out"
        )
    return replace(images.layout, classes=images.classes if labelled else ())


def labels_for(images: ImageSet, layout: ImageLayout) -> NDArray[np.int64] | None:
    """Return the label of each image (n,) for a model of this layout; None if the model has no classes.

    Raises:
        UserError: the images have other classes, or one has none.
    """
    if not layout.classes:
        return None
    if images.classes != layout.classes:
        found = ", ".join(images.classes) or "nothing"
        raise UserError(
            f"the model is conditional on {', '.join(layout.classes)}, and the images of {images.name} are labelled "
            f"with {found}; choose a fitting data set"
        )
    if (images.labels < 0).any():
        raise UserError(f"{int((images.labels < 0).sum())} images of {images.name} have no label; leave them out")
    return images.labels


def split_validation(images: ImageSet, n: int) -> tuple[ImageSet, ImageSet]:
    """Split off the last n images for validation; return the others, which are trained on, and these.

    Raises:
        UserError: nothing would be left to train on.
    """
    if not 0 <= n < len(images):
        raise UserError(
            f"data.validation = {n}: expected 0 to {len(images) - 1}, so that some of the {len(images)} "
            f"training images of {images.name} are left to train on"
        )
    cut = len(images) - n
    return (
        replace(images, images=images.images[:cut], labels=images.labels[:cut]),
        replace(images, images=images.images[cut:], labels=images.labels[cut:], split="validation"),
    )


def to_sequence(images: NDArray[np.uint8]) -> Tensor:
    """Turn images (n, h, w, c) into int64 sequences (n, h * w * c); `to_image` is the exact inverse.

    A sequence takes eight bytes per value, so convert a large set batch by batch.
    """
    import torch

    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 (n, h, w, c), got {images.dtype} {images.shape}")
    return torch.from_numpy(images.reshape(len(images), math.prod(images.shape[1:])).astype(np.int64))


def to_image(sequences: Tensor, layout: ImageLayout) -> NDArray[np.uint8]:
    """Turn sequences (n, layout.length) into uint8 images (n, h, w, c); `to_sequence` is the exact inverse.

    Raises:
        ValueError: the sequences have another length, or a value is no level of the layout (a byte would wrap round).
    """
    values = sequences.cpu().numpy()
    if values.ndim != 2 or values.shape[1] != layout.length:
        raise ValueError(f"expected sequences (n, {layout.length}), got {values.shape}")
    if values.size and not 0 <= values.min() <= values.max() < layout.levels:
        raise ValueError(f"expected values 0 to {layout.levels - 1}, got {values.min()} to {values.max()}")
    return values.astype(np.uint8).reshape(-1, layout.height, layout.width, layout.channels)


def read_image(path: str | Path, layout: ImageLayout, content: BinaryIO | None = None) -> NDArray[np.uint8]:
    """Read an image file of any format that PIL reads, as uint8 (h, w, c) with values 0 to layout.levels - 1.

    If `content` is given, it is read instead, and `path` is only the name in messages.

    Only conversions that lose nothing are made: palettes are looked up, grey is repeated for a colour layout,
    colour whose channels are all equal is taken as grey, and full opacity is dropped. Nothing is resized.

    Raises:
        UserError: the file is missing or damaged, or holds another kind of image; the message says what was
            wanted.
    """
    wanted = f"{layout.width} x {layout.height} pixels, {_colour(layout)}, 8 bits a channel"
    try:
        with opened(content or Path(path)) as image:
            got = f"{image.width} x {image.height} pixels, mode {image.mode}"
            fits = image.size == (layout.width, layout.height) and image.mode in EXACT_MODES
            pixels = np.asarray(image.convert("RGBA")) if fits else None
    except UnusableError as error:
        why = reason(error.__cause__ or error)
        raise UserError(f"{path} cannot be read as an image ({why}): expected {wanted}") from error
    if pixels is None:
        raise UserError(f"{path} is an image of {got}: expected {wanted}")
    if (pixels[..., 3] != 255).any():
        raise UserError(f"{path} is transparent in places: expected {wanted}, opaque")
    if layout.channels == 1 and (pixels[..., :3] != pixels[..., :1]).any():
        raise UserError(f"{path} is a colour image: expected {wanted}")
    shown, shades = pixels[..., : layout.channels], shades_of(layout)
    values = np.searchsorted(shades, shown).clip(max=layout.levels - 1).astype(np.uint8)
    if (shades[values] != shown).any():
        raise UserError(f"{path} has shades between the {layout.levels} that the model knows: {shades.tolist()}")
    return values


def save_grid(
    sequences: Tensor, layout: ImageLayout, path: str | Path, scale: int = 2, columns: int | None = None
) -> None:
    """Write sequences (n, layout.length), n >= 1, as one PNG: a grid in reading order, as square as possible if
    `columns` does not say.

    Each pixel becomes `scale` x `scale` pixels, so that small images can be looked at; grey lines part them.

    Raises:
        UserError: `path` does not end in .png, or cannot be written; what was there is unchanged.
    """
    import torch

    from s4gen.data.vision import import_torchvision

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: images are written as PNG, so expected a name that ends in .png")
    images = torch.from_numpy(_pixels(sequences, layout, scale)).permute(0, 3, 1, 2)
    columns = columns or math.ceil(math.sqrt(len(images)))
    grid = import_torchvision().utils.make_grid(images, nrow=columns, padding=scale, pad_value=128)
    # make_grid repeats a single channel three times
    _write_png(grid.permute(1, 2, 0).numpy()[..., : layout.channels], path)


def save_each(
    sequences: Tensor,
    layout: ImageLayout,
    folder: str | Path,
    scale: int = 1,
    names: Sequence[str] | None = None,
    first: int = 0,
    of: int = 0,
) -> list[Path]:
    """Write a PNG for each sequence (n, layout.length) to `folder`, which is made if missing; return their paths.

    They are 00000.png, 00001.png, ...; with names, one for each, 00000-NAME.png, in which "_" stands for whatever is
    not safe in the name of a file. Numbers begin at `first`, and have as many digits as the last of `of` images needs,
    at least five. With the default scale, `read_image` gives back exactly what was written.


    Raises:
        UserError: a file cannot be written.
    """
    ends = [""] * len(sequences) if names is None else ["-" + re.sub(r"[^\w.-]+", "_", name) for name in names]
    width = max(5, len(str(of - 1)))
    paths = [Path(folder) / f"{index:0{width}d}{end}.png" for index, end in enumerate(ends, first)]
    for pixels, path in zip(_pixels(sequences, layout, scale), paths, strict=True):
        _write_png(pixels, path)
    return paths


def png(sequence: Tensor, layout: ImageLayout) -> bytes:
    """Return one sequence (layout.length,) as the bytes of a PNG, of which `read_image` makes exactly this one again.

    Raises:
        ValueError: as for `to_image`.
    """
    return _png(_pixels(sequence[None], layout, 1)[0])


def _pixels(sequences: Tensor, layout: ImageLayout, scale: int) -> NDArray[np.uint8]:
    """Return the pixels to show, (n, scale * h, scale * w, c): values stretched to black ... white, pixels enlarged."""
    _colour(layout)
    pixels = shades_of(layout)[to_image(sequences, layout)]
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def shades_of(layout: ImageLayout) -> NDArray[np.uint8]:
    """Return the byte that shows each level, evenly from 0 to 255; with 256 levels these are the levels themselves."""
    return np.linspace(0, 255, layout.levels).round().astype(np.uint8)


def _colour(layout: ImageLayout) -> str:
    names = {1: "grey", 3: "RGB"}
    if layout.channels not in names:
        raise UserError(f"images of {layout.channels} channels cannot be shown: expected 1 (grey) or 3 (RGB)")
    return names[layout.channels]


def _write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write pixels (h, w, 1 or 3) to a file, whole or not at all."""
    write_file_atomic(path, _png(pixels))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (h, w, 1 or 3) as the bytes of a PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG")
    return content.getvalue()
