"""Files <-> images <-> integer sequences."""

from __future__ import annotations

from difflib import get_close_matches

from s4gen.config import ImageLayout
from s4gen.data.images import ImageSet, split_validation, to_image, to_sequence
from s4gen.errors import UserError

__all__ = ["DATASETS", "SPLITS", "ImageSet", "load_images", "split_validation", "to_image", "to_sequence"]

LAYOUTS = {"mnist": ImageLayout(28, 28, 1), "cifar10": ImageLayout(32, 32, 3)}
DATASETS = (*LAYOUTS, *(f"{name}-mini" for name in LAYOUTS))
"""Names of data sets; the mini ones are the first images of each, and come inside the package."""
SPLITS = ("train", "test")


def load_images(dataset: str, split: str) -> ImageSet:
    """One split of a data set.

    The mini sets are always there. The full ones are read from the folder that the environment variable
    `S4GEN_DATA` names, or else downloaded once, with checksums, into the user's cache.

    Raises:
        UserError: no such data set or split; a file missing or damaged; neither data nor network.
    """
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
    return ImageSet(images, labels, LAYOUTS[full], dataset, split, source)


def _one_of(allowed: tuple[str, ...], what: str, value: str) -> None:
    if value not in allowed:
        near = get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no {what} called {value!r}: expected one of {', '.join(allowed)}{hint}")
