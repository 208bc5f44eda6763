"""Images and their classes: MNIST, CIFAR-10, in colour or grey, and folders of the user's own, row by row or permuted.

A row is an image as a density model reads it: its values from the top, the channels of a pixel side by side. It is
made of the image's bytes when somebody asks for it. Sequential MNIST, permuted MNIST and sequential CIFAR-10 are from
Le et al. (arXiv 1504.00941), Trinh et al. (arXiv 1803.00144) and, in grey, the Long Range Arena (arXiv 2011.04006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig, ImageLayout
from s4gen.config.names import IMAGE_PREFIX
from s4gen.data.examples import Examples, ExampleSplits
from s4gen.data.images import ImageSet
from s4gen.data.labelled.draws import Draws
from s4gen.data.labelled.parts import check_classes, three
from s4gen.data.labelled.rows import Row, equal_rows
from s4gen.data.opening import open_split, training_splits
from s4gen.data.pictures import ImageFormat
from s4gen.errors import UserError

_GREY = np.array([19_595, 38_470, 7_471])
"""Weights of red, green and blue in 2^-16: 0.299, 0.587 and 0.114 of ITU-R BT.601, with which PIL and torchvision make
grey of colour."""
PERMUTATION_SEED = 0
"""Makes the order of pixels with data.permuted; it is not a setting, so that all such models read the same order."""


def open_images(data: DataConfig, progress: bool) -> ExampleSplits:
    """Open the images that a recipe names as rows of bytes (L,) with their classes.

    Raises:
        UserError: as for `s4gen.data.opening.open_split`; or images have no classes, or one only.
    """
    training, validation = training_splits(data, progress)
    size = ImageFormat(data.size, data.size, data.channels, data.fit)
    test = open_split(data.dataset, "test", size if data.dataset.startswith(IMAGE_PREFIX) else None, progress)
    for images in (training, validation, test):
        _check_labelled(images)
    layout = replace(training.layout, channels=1) if data.grey else training.layout
    if data.grey and training.layout.channels != 3:
        raise UserError(f"data.grey = true: the images of {training.name} are grey already; leave it out")
    convert = row_maker(layout, data.grey, data.permuted)
    found = (training, validation, test)
    splits = three([Examples(equal_rows(images.images, convert), images.labels) for images in found])
    check_classes(data.dataset, training.classes, splits)
    return ExampleSplits(*splits, layout=layout, answers=training.classes, notes=training.notes)


def row_maker(layout: ImageLayout, grey: bool, permuted: bool) -> Callable[[NDArray[np.uint8]], Row]:
    """Return a function from an image (h, w, c) to its row (L,); `layout` is that of the rows."""
    order = Draws(PERMUTATION_SEED).permutation(layout.height * layout.width) if permuted else None

    def convert(image: NDArray[np.uint8]) -> Row:
        pixels = image.reshape(-1, image.shape[-1])
        if grey:
            pixels = ((pixels @ _GREY + (1 << 15)) >> 16).astype(np.uint8)[:, None]
        return (pixels if order is None else pixels[order]).reshape(-1)

    return convert


def _check_labelled(images: ImageSet) -> None:
    if not images.classes:
        raise UserError(
            f"the images of {images.name} have no classes: put those of each class into a folder of its own"
        )
    if (images.labels < 0).any():
        raise UserError(f"{int((images.labels < 0).sum())} images of {images.name} have no label: leave them out")
