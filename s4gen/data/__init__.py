"""Files <-> images <-> integer sequences."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s4gen.config import ImageLayout
from s4gen.config.run import IMAGE_PREFIX
from s4gen.data.images import ImageSet, split_validation, to_image, to_sequence
from s4gen.data.pictures import ImageForm
from s4gen.data.splits import SPLITS as OWN_SPLITS
from s4gen.errors import UserError
from s4gen.folders import user_path

if TYPE_CHECKING:
    from s4gen.data.galleries import Gallery

__all__ = ["DATASETS", "SPLITS", "ImageForm", "ImageSet", "load_images", "split_validation", "to_image", "to_sequence"]

LAYOUTS = {"mnist": ImageLayout(28, 28, 1), "cifar10": ImageLayout(32, 32, 3)}
CLASSES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
DATASETS = (*LAYOUTS, *(f"{name}-mini" for name in LAYOUTS))
"""Names of data sets; the mini ones are the first images of each, and come inside the package."""
SPLITS = ("train", "test")
"""Every data set with a name has these splits; the user's own have a validation split, too."""


def load_images(dataset: str, split: str, form: ImageForm | None = None, shown: bool = False) -> ImageSet:
    """One split of a data set.

    The mini sets are always there. The full ones are read from the folder that the environment variable `S4GEN_DATA`
    names, or else downloaded once, with checksums, into the user's cache. Somebody's own images are images:PLACE, in
    the given form (`pictures.ImageForm`); PLACE is a folder of pictures or of Parquet files, such a file, or the name
    of a data set of the Hugging Face hub. `shown`: with a progress bar.

    Raises:
        UserError: no such data set or split; a file missing or damaged; neither data nor network; images of several
            sizes in a form without one.
    """
    if dataset.startswith(IMAGE_PREFIX):
        return _own(dataset, split, form or ImageForm(), shown)
    _one_of(DATASETS, "data set", dataset)
    _one_of(SPLITS, "split", split)
    full = dataset.removesuffix("-mini")
    if dataset != full:
        from s4gen.data import mini

        images, labels, source = mini.load(full, split)
    elif full == "mnist":
        from s4gen.data import mnist

        images, labels, source = mnist.load(split)
    else:
        from s4gen.data import cifar10

        images, labels, source = cifar10.load(split)
    return ImageSet(images, labels, LAYOUTS[full], dataset, split, source, CLASSES[full])


def _own(dataset: str, split: str, form: ImageForm, shown: bool) -> ImageSet:
    from s4gen.data.galleries import decode

    _one_of(OWN_SPLITS, "split", split)
    gallery = _gallery(dataset.removeprefix(IMAGE_PREFIX))
    found = decode(gallery, form, shown)
    chosen = np.flatnonzero(found.splits == OWN_SPLITS.index(split))
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
    """The pictures at a place that somebody named.

    Raises:
        UserError: there is nothing, or nothing of the kind.
    """
    path = Path(os.path.realpath(user_path(place, "data.dataset")))
    if path.is_file() and path.suffix.lower() == ".parquet":
        from s4gen.data.table_images import from_parquet

        return from_parquet(path.parent, [path], str(path))
    if path.is_dir():
        for folder in (path, path / "data"):  # the hub keeps Parquet files in data/
            if files := sorted(folder.glob("*.parquet")):
                from s4gen.data.table_images import from_parquet

                return from_parquet(folder, files, str(path))
        from s4gen.data.folder_images import from_folder

        return from_folder(path, str(path))
    if not path.exists() and place.count("/") == 1 and not place.startswith((".", "~", "/")):
        from s4gen.data.table_images import from_hub

        return from_hub(place)
    problem = "that is a file" if path.is_file() else "there is no such folder"
    raise UserError(
        f"{IMAGE_PREFIX}{place}: {problem}; expected a folder of images or of Parquet files, a Parquet file, or "
        "OWNER/NAME of the Hugging Face hub"
    )


def _one_of(allowed: tuple[str, ...], what: str, value: str) -> None:
    if value not in allowed:
        near = get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no {what} called {value!r}: expected one of {', '.join(allowed)}{hint}")
