"""Draw images, or complete given ones."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.arguments import number, whole
from s4gen.cli.output import check_output, shows_progress
from s4gen.cli.subject import add_dataset_argument, best_device, dataset_of, load_sequences
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.config import DensityConfig

DEFAULT_COUNT = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=Path,
        required=True,
        help="NAME.png: all images in one grid; anything else: a folder with one PNG per image",
    )
    parser.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=whole(1),
        help=f"images (default: {DEFAULT_COUNT}, or one for each file of --prompt)",
    )
    parser.add_argument("--seed", metavar="S", type=whole(0), default=0, help="same seed, same images (default: 0)")
    _add_filters(parser)
    _add_prompt(parser)
    parser.add_argument("--batch", metavar="B", type=whole(1), default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--engine",
        choices=("auto", "eager", "compiled"),
        default="auto",
        help="auto compiles where that saves time (default: auto)",
    )
    parser.add_argument("--force", action="store_true", help="write over what is at PATH")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=number("a number greater than 0", lambda value: value > 0),
        default=1.0,
        help="below 1: likelier, less varied (default: 1)",
    )
    parser.add_argument(
        "--top-k",
        metavar="K",
        type=whole(0),
        default=0,
        help="draw from the K likeliest values only (0: all)",
    )
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=number("a number greater than 0, at most 1", lambda value: 0 < value <= 1),
        default=1.0,
        help="draw from the likeliest values that make up probability P (default: 1)",
    )
    parser.add_argument(
        "--min-p",
        metavar="P",
        type=number("a number from 0 to 1", lambda value: 0 <= value <= 1),
        default=0.0,
        help="leave out values less likely than P times the likeliest (default: 0)",
    )


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        metavar="IMAGE",
        nargs="+",
        help="complete these image files; the word test stands for the first images of the test split",
    )
    parser.add_argument(
        "--prompt-rows",
        metavar="R",
        type=whole(1),
        help="rows to keep of each image (default: the upper half)",
    )
    add_dataset_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.out, args.force)
    if args.prompt is None and args.prompt_rows is not None:
        raise UserError("--prompt-rows says how much of a given image is kept; give one with --prompt")
    from s4gen.data.images import save_each, save_grid
    from s4gen.sampling.convert import load_recurrent
    from s4gen.sampling.generate import generate

    recurrent = load_recurrent(args.checkpoint)
    layout = recurrent.config.layout
    prompt = None if args.prompt is None else read_prompt(args, recurrent.config)
    n = (args.count or DEFAULT_COUNT) if prompt is None else len(prompt)
    started = time.perf_counter()
    images = generate(
        recurrent.to(best_device()),
        n,
        seed=args.seed,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        prompt=prompt,
        batch_size=args.batch,
        engine=args.engine,
        progress=shows_progress(),
    )
    seconds = time.perf_counter() - started
    if args.out.suffix.lower() == ".png":
        save_grid(images, layout, args.out)
    else:
        save_each(images, layout, args.out)
    drawn = layout.length - (0 if prompt is None else prompt.shape[1])
    steps = drawn * -(-n // args.batch)
    print(f"{n} images in {args.out}")
    print(
        f"{seconds:.2f} s: {n * drawn / seconds:,.0f} tokens/s, {n / seconds:.2f} images/s, "
        f"{1000 * seconds / steps:.3f} ms/step"
    )
    return 0


def read_prompt(args: argparse.Namespace, config: DensityConfig) -> Tensor:
    """The upper rows of the images to complete, (n, P) int64; fewer images than N are taken in turn."""
    import numpy as np

    from s4gen.checkpoint import load_checkpoint
    from s4gen.data.images import read_image, to_sequence

    layout = config.layout
    rows = layout.height // 2 if args.prompt_rows is None else args.prompt_rows
    if rows >= layout.height:
        raise UserError(
            f"--prompt-rows {rows}: the images have {layout.height} rows, so keep at most {layout.height - 1}"
        )
    if args.prompt == ["test"]:
        dataset = args.dataset or dataset_of(load_checkpoint(args.checkpoint))
        n = args.count or DEFAULT_COUNT
        images = load_sequences(dataset, "test", n, config)
    else:
        images = to_sequence(np.stack([read_image(path, layout) for path in args.prompt]))
        n = args.count or len(images)
    turns = -(-n // len(images))
    return images.repeat(turns, 1)[:n, : rows * layout.width * layout.channels]
