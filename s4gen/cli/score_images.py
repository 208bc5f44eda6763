"""`s4gen score` of image files, several side by side."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.score_common import (
    Failed,
    Reference,
    Result,
    Scored,
    as_for_eval,
    check_finite,
    class_facts,
    costs_of,
    map_paths,
    per_token,
    reference_costs,
)
from s4gen.config import ImageLayout
from s4gen.errors import UserError
from s4gen.files.folders import user_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s4gen.checkpoint import Checkpoint


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return the scores of image files, in order, as they are computed, and the name of the engine if there is one.

    Raises:
        UserError: the arguments and the model do not go together.
    """
    import numpy as np

    from s4gen.data.images import read_image, to_sequence

    layout = checkpoint.config.layout
    assert isinstance(layout, ImageLayout)
    costs, engine = costs_of(args, checkpoint, layout.length, max(2, args.batch))
    places = None if args.map is None else map_paths(args.map, files, ".png")

    def results() -> Iterator[Result]:
        for first in range(0, len(files), args.batch):
            part, images, failed = files[first : first + args.batch], [], {}
            for number, file in enumerate(part):
                try:
                    images.append(read_image(user_path(file), layout))
                except UserError as error:
                    failed[number] = Failed(file, str(error))
            nats = np.zeros((0, layout.length))
            if images:
                nats = np.concatenate([*costs.of([to_sequence(np.stack(images))])], axis=1)
                probabilities = costs.classes()
            good = itertools.count()
            for number, file in enumerate(part):
                if number in failed:
                    yield failed[number]
                    continue
                row = next(good)
                extra: dict[str, Any] = class_facts(checkpoint, args, probabilities[row])
                result = check_finite(Scored(file, math.fsum(nats[row].tolist()), layout.length, nats[row, :0], extra))
                if places is not None and isinstance(result, Scored):
                    extra["map"] = str(places[first + number])
                    _write_map(extra["map"], images[row], nats[row], layout)
                yield result

    return results(), engine


def _write_map(path: str, values: NDArray[np.uint8], nats: NDArray[np.float64], layout: ImageLayout) -> None:
    """Write the picture of what each pixel cost."""
    from s4gen.data.images import shades_of
    from s4gen.evaluate.maps import image_map
    from s4gen.files.atomic import write_file_atomic

    bits = nats.reshape(layout.height, layout.width, layout.channels).sum(axis=-1) / math.log(2)
    write_file_atomic(path, image_map(shades_of(layout)[values], bits))


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Score the images of the split that files are compared with.

    Raises:
        UserError: there is no such data, or it is not of the model's kind.
    """
    from s4gen.cli.evaluate_images import scoring

    found = scoring(as_for_eval(args), checkpoint)
    return per_token(reference_costs(found)["nats"], found.shown["length"])
