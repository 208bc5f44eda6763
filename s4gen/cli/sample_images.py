"""`s4gen sample` of a model of images."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from s4gen.cli.output import shows_progress
from s4gen.cli.subject import best_device, dataset_of, load_sequences
from s4gen.config import ImageLayout
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint

DEFAULT_COUNT = 16


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from s4gen.data.images import save_each, save_grid
    from s4gen.sampling.convert import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.sampling.filters import Filters
    from s4gen.sampling.generate import generate

    recurrent = recurrent_of(checkpoint)
    layout = recurrent.config.layout
    assert isinstance(layout, ImageLayout)
    prompt = None if args.prompt is None else read_prompt(args, checkpoint, layout)
    n = (args.count or DEFAULT_COUNT) if prompt is None else len(prompt)
    drawn = layout.length - (0 if prompt is None else prompt.shape[1])
    started = time.perf_counter()
    recurrent = recurrent.to(best_device())
    filters = Filters(args.temperature, args.top_k, args.top_p, args.min_p)
    engine = make_engine(args.engine, recurrent, filters, tokens=n * drawn)
    images = generate(
        recurrent,
        n,
        seed=args.seed,
        **asdict(filters),
        prompt=prompt,
        batch_size=args.batch,
        engine=engine,
        progress=shows_progress(),
    )
    seconds = time.perf_counter() - started
    if args.out.suffix.lower() == ".png":
        save_grid(images, layout, args.out)
    else:
        save_each(images, layout, args.out)
    steps = drawn * -(-n // args.batch)
    print(f"{n} images in {args.out}")
    print(
        f"{seconds:.2f} s: {n * drawn / seconds:,.0f} tokens/s, {n / seconds:.2f} images/s, "
        f"{1000 * seconds / steps:.3f} ms/step ({engine.name})"
    )
    return 0


def read_prompt(args: argparse.Namespace, checkpoint: Checkpoint, layout: ImageLayout) -> Tensor:
    """The upper rows of the images to complete, (n, P) int64; fewer images than N are taken in turn."""
    import numpy as np

    from s4gen.data.images import read_image, to_sequence

    rows = layout.height // 2 if args.prompt_rows is None else args.prompt_rows
    if rows >= layout.height:
        raise UserError(
            f"--prompt-rows {rows}: the images have {layout.height} rows, so keep at most {layout.height - 1}"
        )
    if args.prompt == ["test"]:
        n = args.count or DEFAULT_COUNT
        images = load_sequences(args.dataset or dataset_of(checkpoint), "test", n, checkpoint.config)
    else:
        images = to_sequence(np.stack([read_image(path, layout) for path in args.prompt]))
        n = args.count or len(images)
    turns = -(-n // len(images))
    return images.repeat(turns, 1)[:n, : rows * layout.width * layout.channels]
