"""`s4gen sample` of a model of images."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.bulk.part import Run
from s4gen.cli.bounds import BOOKKEEPING, check_kept, check_written
from s4gen.cli.classes import chosen_classes, labels_in_turn
from s4gen.cli.dataset import dataset_of, open_images
from s4gen.cli.filters import filters_of
from s4gen.cli.output import shows_progress
from s4gen.cli.prompt_cache import prompt_cache_of
from s4gen.cli.shards import (
    check_range,
    check_replaced,
    digest_of,
    digest_of_array,
    layout_table,
    merged_name,
    sampling_options,
    write_part,
)
from s4gen.config import ImageLayout
from s4gen.config.names import WRITTEN_IMAGES
from s4gen.errors import UserError
from s4gen.machine.device import best_device
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.bulk.dealing import Piece
    from s4gen.bulk.part import Part
    from s4gen.checkpoint import Checkpoint

DEFAULT_COUNT = 16


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    import torch

    from s4gen.bulk.dealing import even_batches
    from s4gen.sampling.converted import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.sampling.generate import draw_batches
    from s4gen.sampling.prompts import checked_prompt

    recurrent = recurrent_of(checkpoint)
    layout = recurrent.config.layout
    assert isinstance(layout, ImageLayout)
    if args.nearest and args.shard is not None:
        raise UserError("--nearest draws all images beside their neighbours; leave it out, or --shard")
    if args.nearest and args.out.suffix.lower() != ".png":
        raise UserError(f"--nearest draws a grid: give -o a name that ends in .png, not {args.out}")
    chosen = chosen_classes(args.classes, layout.classes, args.checkpoint)
    prompt, labels = (None, None) if args.prompt is None else read_prompt(args, checkpoint, layout)
    n = (args.count or max(DEFAULT_COUNT, len(chosen))) if prompt is None else len(prompt)
    _check_bounds(args, layout, n)
    if chosen and (labels is None or args.classes):
        labels = labels_in_turn(chosen, n)
    drawn = layout.length - (0 if prompt is None else prompt.shape[1])
    recurrent = recurrent.to(best_device())
    engine = make_engine(args.engine, recurrent, filters_of(args), tokens=n * drawn)
    batches, cache = even_batches(n, args.batch), prompt_cache_of(args)

    def images_of(rows: Iterable[range], bar: Any) -> Iterator[tuple[range, Tensor]]:
        prompts = checked_prompt(recurrent, n, prompt, labels)
        for members, tokens in draw_batches(recurrent, engine, prompts, rows, drawn, args.seed, bar.update, cache):
            given = tokens[:, :0] if prompt is None else prompt[members.start : members.stop]
            yield members, torch.cat((given, tokens), dim=1)

    if args.shard is not None:
        run = _run_of(args, checkpoint, engine.name, n, prompt, labels)

        def block(piece: Piece) -> dict[str, Any]:
            ((_, images),) = images_of([piece.computed], progress_bar(0, "tok", False))
            chosen = None if labels is None else labels[piece.own.start : piece.own.stop]
            found = {"tokens": images[piece.extra :].to(torch.uint8).numpy()}
            return found if chosen is None else found | {"labels": chosen.numpy()}

        write_part(args, run, batches, block)
        return 0
    started = time.perf_counter()
    with progress_bar(n * drawn, "tok", shows_progress(), desc="sampling") as bar:
        parts = ((members, images) for members, images in images_of(batches, bar))
        if args.nearest:
            _save_with_nearest(args, checkpoint, torch.cat([images for _, images in parts]))
        else:
            save(args.out, layout, n, parts, labels)
    seconds = time.perf_counter() - started
    steps = drawn * -(-n // args.batch)
    print(f"{plural(n, 'image')} in {args.out}")
    _say_classes(layout, labels, prompt is not None)
    print(
        f"{seconds:.2f} s: {n * drawn / seconds:,.0f} tokens/s, {n / seconds:.2f} images/s, "
        f"{1000 * seconds / steps:.3f} ms/step ({engine.name})"
    )
    return 0


def _check_bounds(args: argparse.Namespace, layout: ImageLayout, n: int) -> None:
    """Refuse more images than there is room for.

    Raises:
        UserError: there is no room, in memory or on the disk.
    """
    # A grid is held as bytes, and in its enlarged form, several times; with --nearest, as tokens of eight bytes.
    whole = (16 if args.out.suffix else 0) + (9 * (1 + args.nearest) if args.nearest else 0)
    given = 8 if args.prompt else 0
    check_kept(n, BOOKKEEPING + (whole + given) * layout.length, "images")
    check_kept(min(n, args.batch), 16 * layout.length, "images side by side", "choose a smaller --batch")
    if args.shard is None and not args.out.suffix:
        check_written(args.out, n, 0, "images")


def save(out: Path, layout: ImageLayout, n: int, parts: Iterable[tuple[range, Tensor]], labels: Tensor | None) -> None:
    """Write n images, whose tokens come in parts (rows, L): to a grid, or to a file for each in the folder `out`.

    A grid has one class in each column. A file has the image's class in its name; it is written when its part comes, so
    that a folder takes no more memory than a part.
    """
    import torch

    from s4gen.data.images import save_each, save_grid

    classes = [] if labels is None else [layout.classes[label] for label in labels.tolist()]
    if out.suffix.lower() != ".png":
        for rows, images in parts:
            names = classes[rows.start : rows.stop] or None
            save_each(images, layout, out, names=names, first=rows.start, of=n)
        return
    several = len(set(classes))
    # A byte for each value, where tokens take eight.
    images = torch.cat([images.to(torch.uint8) for _, images in parts])
    save_grid(images, layout, out, columns=several if 1 < several <= n // 2 else None)


def merge(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Write the images of parts as the single run would have."""
    import numpy as np
    import torch

    from s4gen.bulk.merging import all_arrays, column, layout_of, shown
    from s4gen.files.atomic import write_atomic

    merged_name(args.out, WRITTEN_IMAGES, folder=True)
    check_replaced(args.out, args.force, ("*.png",))
    layout, n = layout_of(parts[0]), parts[0].run.rows
    assert isinstance(layout, ImageLayout)
    completed = shown(parts[0], "completed", bool)
    labels = None
    if layout.classes and shown(parts[0], "labelled", bool):
        found = np.concatenate([column(rows, block, "labels", "int64") for rows, block in all_arrays(parts)])
        check_range(parts[0], "labels", found, len(layout.classes))
        labels = torch.from_numpy(found)

    def images() -> Iterator[tuple[range, Tensor]]:
        for rows, block in all_arrays(parts):
            tokens = column(rows, block, "tokens", "uint8", layout.length)
            check_range(parts[0], "tokens", tokens, layout.levels)
            yield rows, torch.from_numpy(tokens)

    if args.out.suffix:
        save(args.out, layout, n, images(), labels)
    else:
        write_atomic(args.out, lambda folder: save(folder, layout, n, images(), labels))
    print(f"{n} images in {args.out}")
    _say_classes(layout, labels, completed)
    return 0


def _run_of(
    args: argparse.Namespace, checkpoint: Checkpoint, engine: str, n: int, prompt: Tensor | None, labels: Tensor | None
) -> Run:
    """Return the run that the parts of this command belong to."""
    options = sampling_options(args, engine)
    options["prompt"] = None if prompt is None else digest_of_array(prompt.numpy())
    options["classes"] = None if labels is None else digest_of(labels.tolist())
    shown = {"layout": layout_table(checkpoint), "completed": prompt is not None, "labelled": labels is not None}
    return Run("sample", "image", checkpoint.digest(), options, shown, n)


def _say_classes(layout: ImageLayout, labels: Tensor | None, completed: bool) -> None:
    if labels is not None:
        drawn = ", ".join(dict.fromkeys(layout.classes[label] for label in labels.tolist()))
        print(f"classes: {drawn}" if completed else f"classes in turn: {drawn}")


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
    check_kept(n, 8 * layout.length, "images")
    turns = -(-n // len(images))
    kept = images.repeat(turns, 1)[:n, : rows * layout.width * layout.channels]
    return kept, None if labels is None else labels.repeat(turns)[:n]
