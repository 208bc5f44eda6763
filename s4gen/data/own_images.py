"""From a recipe's settings to sets of images, to train on and to validate with, and from a model to what it reads."""

from __future__ import annotations

from dataclasses import replace

from s4gen.config import DataConfig, ImageLayout
from s4gen.config.run import IMAGE_PREFIX
from s4gen.data import ImageForm, ImageSet, load_images, split_validation


def training_sets(data: DataConfig, shown: bool = False) -> tuple[ImageSet, ImageSet]:
    """To train on, and to validate with: held out, where the set has no validation split of its own; maybe empty.

    Raises:
        UserError: as of `load_images`; or nothing would be left to train on.
    """
    form = ImageForm(data.size, data.size, data.channels, data.fit)
    training = load_images(data.dataset, "train", form, shown)
    if not data.dataset.startswith(IMAGE_PREFIX):
        return split_validation(training, data.validation)
    if not data.validation:
        return training, replace(training, images=training.images[:0], labels=training.labels[:0], split="validation")
    held = load_images(data.dataset, "validation", form, shown)
    return training, replace(held, images=held.images[: data.validation], labels=held.labels[: data.validation])


def open_split(dataset: str, split: str, layout: ImageLayout, data: DataConfig | None, shown: bool = False) -> ImageSet:
    """A split in the form that a model of this layout reads; `data` is what it was trained on.

    Raises:
        UserError: as of `load_images`.
    """
    fit = data.fit if data is not None and data.dataset == dataset else "crop"
    return load_images(dataset, split, ImageForm(layout.height, layout.width, layout.channels, fit), shown)
