"""`s4gen sample` of a model of images."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from s4gen.cli.classes import chosen_classes, labels_in_turn
from s4gen.cli.dataset import dataset_of, open_images
from s4gen.cli.filters import filters_of
from s4gen.cli.output import shows_progress
from s4gen.config import ImageLayout
from s4gen.errors import UserError
from s4gen.machine.device import best_device
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint

DEFAULT_COUNT = 16


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from s4gen.sampling.convert import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.sampling.generate import generate

    recurrent = recurrent_of(checkpoint)
    layout = recurrent.config.layout
    assert isinstance(layout, ImageLayout)
    if args.nearest and args.out.suffix.lower() != ".png":
        raise UserError(f"--nearest draws a grid: give -o a name that ends in .png, not {args.out}")
    chosen = chosen_classes(args.classes, layout.classes, args.checkpoint)
    prompt, labels = (None, None) if args.prompt is None else read_prompt(args, checkpoint, layout)
    n = (args.count or max(DEFAULT_COUNT, len(chosen))) if prompt is None else len(prompt)
    if chosen and (labels is None or args.classes):
        labels = labels_in_turn(chosen, n)
    drawn = layout.length - (0 if prompt is None else prompt.shape[1])
    recurrent = recurrent.to(best_device())
    engine = make_engine(args.engine, recurrent, filters_of(args), tokens=n * drawn)
    started = time.perf_counter()
    images = generate(
        recurrent,
        n,
        seed=args.seed,
        prompt=prompt,
        labels=labels,
        batch_size=args.batch,
        engine=engine,
        progress=shows_progress(),
    )
    seconds = time.perf_counter() - started
    _save(args, checkpoint, layout, images, labels)
    steps = drawn * -(-n // args.batch)
    print(f"{plural(n, 'image')} in {args.out}")
    if labels is not None:
        drawn_classes = ", ".join(dict.fromkeys(layout.classes[label] for label in labels.tolist()))
        print(f"classes in turn: {drawn_classes}" if prompt is None else f"classes: {drawn_classes}")
    print(
        f"{seconds:.2f} s: {n * drawn / seconds:,.0f} tokens/s, {n / seconds:.2f} images/s, "
        f"{1000 * seconds / steps:.3f} ms/step ({engine.name})"
    )
    return 0


def _save(
    args: argparse.Namespace, checkpoint: Checkpoint, layout: ImageLayout, images: Tensor, labels: Tensor | None
) -> None:
    """Write a grid, of classes with one in each column, or a file for each image, which has its class in its name."""
    from s4gen.data.images import save_each, save_grid

    classes = [] if labels is None else [layout.classes[label] for label in labels.tolist()]
    if args.nearest:
        _save_with_nearest(args, checkpoint, images)
    elif args.out.suffix.lower() == ".png":
        several = len(set(classes))
        save_grid(images, layout, args.out, columns=several if 1 < several <= len(images) // 2 else None)
    else:
        save_each(images, layout, args.out, names=classes or None)


def _save_with_nearest(args: argparse.Namespace, checkpoint: Checkpoint, images: Tensor) -> None:
    """Draw a row for each image, itself and then the training images nearest to it, and say how near they are.

    Raises:
        UserError: the training images are not there, or are of another size.
    """
    import torch

    from s4gen.data.images import save_grid, to_sequence
    from s4gen.data.nearest import nearest
    from s4gen.data.opening import format_for, open_split

    dataset, recipe = args.dataset or dataset_of(checkpoint), checkpoint.recipe
    layout, data = checkpoint.config.layout, None if recipe is None else recipe.data
    assert isinstance(layout, ImageLayout)
    format = format_for(layout, dataset, data)
    training = open_split(dataset, "train", format)
    if training.layout != replace(layout, classes=()) or len(training) < args.nearest:
        raise UserError(f"--nearest {args.nearest}: {dataset} has not so many training images of the model's size")
    number, distance = nearest(images, training.images, args.nearest)
    beside = to_sequence(training.images[number.flatten().numpy()]).unflatten(0, number.shape)
    rows = torch.cat((images[:, None].cpu(), beside), dim=1)
    save_grid(rows.flatten(0, 1), layout, args.out, columns=rows.shape[1])
    test = to_sequence(open_split(dataset, "test", format).images[: max(len(images), 100)])
    real = nearest(test, training.images, 1)[1]
    print(
        f"nearest training image: {distance[:, 0].median():.1f} levels away (median of the images drawn); "
        f"of {len(test)} test images {real.median():.1f}"
    )


def read_prompt(args: argparse.Namespace, checkpoint: Checkpoint, layout: ImageLayout) -> tuple[Tensor, Tensor | None]:
    """The upper rows of the images to complete, (n, P) int64; fewer images than N are taken in turn.

    Test images come with their labels (n,) int64, where the model is conditional on them.
    """
    import numpy as np

    from s4gen.data.images import read_image, to_sequence

    rows = layout.height // 2 if args.prompt_rows is None else args.prompt_rows
    if rows >= layout.height:
        raise UserError(
            f"--prompt-rows {rows}: the images have {layout.height} rows, so keep at most {layout.height - 1}"
        )
    if args.prompt == ["test"]:
        n = args.count or DEFAULT_COUNT
        images, labels = open_images(checkpoint, args.dataset or dataset_of(checkpoint), "test", n)
    else:
        images = to_sequence(np.stack([read_image(path, layout) for path in args.prompt]))
        labels, n = None, args.count or len(images)
    turns = -(-n // len(images))
    kept = images.repeat(turns, 1)[:n, : rows * layout.width * layout.channels]
    return kept, None if labels is None else labels.repeat(turns)[:n]
