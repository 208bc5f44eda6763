"""Open the splits of a data set of images, for a recipe or a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig, ImageLayout
from s4gen.config.names import IMAGE_PREFIX, IMAGE_SET_SPLITS, IMAGE_SETS, SPLITS
from s4gen.data import cifar10, mini, mnist
from s4gen.data.folder_images import from_folder
from s4gen.data.galleries import Gallery, decode
from s4gen.data.images import ImageSet, split_validation
from s4gen.data.pictures import ImageFormat
from s4gen.data.table_images import from_hub, from_parquet
from s4gen.errors import UserError
from s4gen.files.folders import user_path


@dataclass(frozen=True)
class Published:
    """A data set of images with a name."""

    load: Callable[[str], tuple[NDArray[np.uint8], NDArray[np.int64], str]]
    """A function that takes one of `IMAGE_SET_SPLITS` and returns images (n, h, w, c), labels (n,) and their source.

    The arrays must be writable, because torch shares their memory. The source is one word for how they were come by, as
    `ImageSet.source` has it: "S4GEN_DATA", "torchvision" or "mini" for these sets, or a word of your own.
    """
    layout: ImageLayout
    """The size of an image, which all of them have."""
    classes: tuple[str, ...]
    """Names of the labels 0, 1, ..."""


_DIGITS = tuple("0123456789")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PUBLISHED = {
    "mnist": Published(mnist.load, ImageLayout(28, 28, 1), _DIGITS),
    "cifar10": Published(cifar10.load, ImageLayout(32, 32, 3), _THINGS),
    "mnist-mini": Published(partial(mini.load, "mnist"), ImageLayout(28, 28, 1), _DIGITS),
    "cifar10-mini": Published(partial(mini.load, "cifar10"), ImageLayout(32, 32, 3), _THINGS),
}
"""All of `names.IMAGE_SETS`; the mini ones are the first images of each, and come inside the package."""


def open_split(dataset: str, split: str, format: ImageFormat | None = None, progress: bool = False) -> ImageSet:
    """Open a split of a data set of images.

    The mini sets are always there. The full ones are read from the folder that the environment variable `S4GEN_DATA`
    names, or else downloaded once, with checksums, into the user's cache. Somebody's own images are images:PLACE, in
    the given format; PLACE is a folder of pictures or of Parquet files, such a file, or the name of a data set of the
    Hugging Face hub. With `progress`, the pictures that are decoded are counted on standard error.

    Raises:
        UserError: there is no such data set or split; a file is missing or damaged; there is neither data nor network;
            the images have several sizes, and the format none.
    """
    if dataset.startswith(IMAGE_PREFIX):
        return _own(dataset, split, format or ImageFormat(), progress)
    _one_of(IMAGE_SETS, "data set", dataset)
    _one_of(IMAGE_SET_SPLITS, "split", split)
    found = PUBLISHED[dataset]
    images, labels, source = found.load(split)
    return ImageSet(images, labels, found.layout, dataset, split, source, found.classes)


def _own(dataset: str, split: str, format: ImageFormat, progress: bool) -> ImageSet:
    """Open a split of somebody's own images."""
    _one_of(SPLITS, "split", split)
    gallery = _gallery(dataset.removeprefix(IMAGE_PREFIX))
    found = decode(gallery, format, progress)
    chosen = np.flatnonzero(found.splits == SPLITS.index(split))
    if not len(chosen):
        way_out = "set data.validation = 0 to train without it, or " if split == "validation" else ""
        raise UserError(
            f"none of the {len(found.images)} images of {dataset} is in the {split} split: {way_out}add some, or put "
            "them in folders train/, valid/ and test/"
        )
    return ImageSet(
        images=found.images[chosen],
        labels=found.labels[chosen],
        layout=ImageLayout(*found.images.shape[1:]),
        name=dataset,
        split=split,
        source="files",
        classes=gallery.classes,
        notes=tuple(found.lines),
    )


def _gallery(place: str) -> Gallery:
    """Find the pictures at a place that somebody named.

    Raises:
        UserError: there is nothing there, or nothing of the kind.
    """
    path = Path(os.path.realpath(user_path(place, "data.dataset")))
    if path.is_file() and path.suffix.lower() == ".parquet":
        return from_parquet(path.parent, [path], str(path))
    if path.is_dir():
        for folder in (path, path / "data"):  # the hub keeps Parquet files in data/
            if files := sorted(folder.glob("*.parquet")):
                return from_parquet(folder, files, str(path))
        return from_folder(path, str(path))
    if not path.exists() and place.count("/") == 1 and not place.startswith((".", "~", "/")):
        return from_hub(place)
    problem = "that is a file" if path.is_file() else "there is no such folder"
    raise UserError(
        f"{IMAGE_PREFIX}{place}: {problem}; expected a folder of images or of Parquet files, a Parquet file, or "
        "OWNER/NAME of the Hugging Face hub"
    )


def training_splits(data: DataConfig, progress: bool = False) -> tuple[ImageSet, ImageSet]:
    """Open what a recipe trains on and validates with; the latter may be empty.

    It is held out of the training split where the set has no validation split of its own.

    Raises:
        UserError: as for `open_split`; or nothing would be left to train on.
    """
    format = ImageFormat(data.size, data.size, data.channels, data.fit)
    training = open_split(data.dataset, "train", format, progress)
    if not data.dataset.startswith(IMAGE_PREFIX):
        return split_validation(training, data.validation)
    if not data.validation:
        return training, replace(training, images=training.images[:0], labels=training.labels[:0], split="validation")
    held = open_split(data.dataset, "validation", format, progress)
    return training, replace(held, images=held.images[: data.validation], labels=held.labels[: data.validation])


def format_for(layout: ImageLayout, dataset: str, data: DataConfig | None) -> ImageFormat:
    """Return what the images of a data set must be turned into for a model of this layout.

    `data` is what the model was trained on: its own data set is brought to its size in the same way again.
    """
    fit = data.fit if data is not None and data.dataset == dataset else "crop"
    return ImageFormat(layout.height, layout.width, layout.channels, fit)


def _one_of(allowed: tuple[str, ...], what: str, value: str) -> None:
    """Refuse a value that is not among those allowed, and name the nearest one."""
    if value not in allowed:
        near = get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no {what} called {value!r}: expected one of {', '.join(allowed)}{hint}")
