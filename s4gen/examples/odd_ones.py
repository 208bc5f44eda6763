"""Does a likelihood tell odd images from usual ones? Often, and sometimes the wrong way round.

Test images of a model's data set are scored beside images that are none: the same ones inverted, mirrored or with a few
values flipped, and images that hold next to nothing. For each kind the program prints bits per dimension, and the AUC:
how often such an image costs more than a test image, which is 1 where a threshold separates them, 0.5 where the cost
says nothing, and 0 where every odd image is likelier than every usual one.

    python -m s4gen.examples.odd_ones mnist-small --dataset mnist-mini --images 100
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from s4gen.checkpoint import load_checkpoint
from s4gen.cli.arguments import whole
from s4gen.config import ImageLayout
from s4gen.data import open_split, to_sequence
from s4gen.errors import UserError
from s4gen.evaluate.images import image_nats
from s4gen.evaluate.scorers import by_convolution
from s4gen.evaluate.scores import separation
from s4gen.examples.arguments import Parser

FLIPPED = 5
"""Values of an image that are flipped."""
BATCH = 25

Images = NDArray[np.uint8]
"""(n, height, width, channels)"""


def odd_ones(images: Images, levels: int, random: np.random.Generator) -> Iterator[tuple[str, Images]]:
    """Yield images of values below `levels` that are not of the kind of `images`, with the name of what they are."""
    n, height, _, channels = images.shape
    top = levels - 1
    yield "inverted", top - images
    yield "mirrored", images[:, :, ::-1]
    flipped = images.reshape(n, -1).copy()
    places = random.permuted(np.tile(np.arange(flipped.shape[1]), (n, 1)), axis=1)[:, :FLIPPED]
    np.put_along_axis(flipped, places, top - np.take_along_axis(flipped, places, axis=1), axis=1)
    yield f"{FLIPPED} values flipped", flipped.reshape(images.shape)
    yield "noise", random.integers(0, levels, images.shape).astype(np.uint8)
    ends = random.integers(0, levels, (2, n, 1, 1, channels))
    ramp = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, height)[:, None, None]
    yield "smooth ramps", np.broadcast_to(ramp.round(), images.shape).astype(np.uint8)
    yield "all of one colour", np.broadcast_to(ends[0], images.shape).astype(np.uint8)
    yield "black", np.zeros_like(images)


def main(argv: Sequence[str] | None = None) -> int:
    """Score usual and odd images, print the table, and return the exit code."""
    parser = Parser(prog="python -m s4gen.examples.odd_ones", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", nargs="?", default="mnist-small", help="a model of images (default: mnist-small)")
    parser.add_argument("--dataset", default="mnist-mini", help="the data set of test images (default: mnist-mini)")
    parser.add_argument("--images", type=whole(1), default=100, help="images of each kind (default: 100)")
    args = parser.parse_args(argv)
    try:
        model = load_checkpoint(args.checkpoint).model
        layout, usual = model.config.layout, open_split(args.dataset, "test")
    except UserError as error:
        return parser.refuse(str(error))
    if not isinstance(layout, ImageLayout) or layout.classes or layout != usual.layout:
        return parser.refuse(
            f"{args.checkpoint} is no model of images such as those of {args.dataset}, without classes"
        )
    images, score = usual.images[: args.images], by_convolution(model)

    def costs(some: Images) -> NDArray[np.float64]:
        parts = np.array_split(some, -(-len(some) // BATCH))
        nats = np.concatenate([image_nats(score, to_sequence(np.ascontiguousarray(x)), model.bos) for x in parts])
        found: NDArray[np.float64] = nats / (math.log(2) * layout.length)
        return found

    known = costs(images)
    print(f"{'images':24}  bits/dim     AUC")
    print(f"{f'{args.dataset} test':24}  {known.mean():8.4f}")
    for name, odd in odd_ones(images, layout.levels, np.random.default_rng(0)):
        found = costs(odd)
        print(f"{name:24}  {found.mean():8.4f}  {separation(known, found):6.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
