"""`s4gen score` of recordings, one after another, in pieces."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.score_common import (
    PIECE,
    Reference,
    Result,
    Scored,
    as_for_eval,
    class_facts,
    costs_of,
    each_file,
    map_paths,
    per_token,
    reference_costs,
)
from s4gen.config import AudioLayout
from s4gen.errors import UserError
from s4gen.files.folders import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return the scores of recordings, in order, as they are computed, and the name of the engine if there is one.

    Raises:
        UserError: the arguments and the model do not go together.
    """
    import numpy as np
    import torch

    from s4gen.data.audio import format_of
    from s4gen.data.audio.reading import WANTED, Heard, Recording, UnusableError, changes, encode_blocks, read_origin
    from s4gen.evaluate.maps import SoundMap
    from s4gen.files.atomic import write_file_atomic

    layout = checkpoint.config.layout
    assert isinstance(layout, AudioLayout)
    format = format_of(layout)
    costs, engine = costs_of(args, checkpoint, PIECE, 1)
    places = None if args.map is None else map_paths(args.map, files, ".png")

    def score(number: int, file: str) -> Scored:
        path, heard, waiting, clipped = user_path(file), Heard(), [], False
        recording = Recording(str(path), lambda: path)
        drawn = None if places is None else SoundMap()

        def blocks() -> Iterator[Tensor]:
            nonlocal clipped
            for codes, beyond in encode_blocks(recording, format, heard):
                clipped = clipped or beyond
                if drawn is not None:
                    waiting.append(codes)
                if len(codes):
                    yield torch.from_numpy(codes.astype(np.int64))[None]

        parts, length = [], 0
        try:
            origin = read_origin(recording)
            for nats in costs.of(blocks()):
                parts.append(math.fsum(nats[0].tolist()))
                length += nats.shape[1]
                if drawn is not None:
                    known = np.concatenate(waiting)
                    drawn.add(format.quantiser.decode(known[: nats.shape[1]]), nats[0] / math.log(2))
                    waiting[:] = [known[nats.shape[1] :]]
        except UnusableError as error:
            raise UserError(f"{path} {error}: expected {WANTED}") from error
        for note in changes(path, origin, format, heard, clipped):
            print(f"s4gen: {note}", file=sys.stderr)
        extra: dict[str, Any] = class_facts(checkpoint, args, costs.classes()[0]) | {"seconds": length / layout.rate}
        if drawn is not None and places is not None and math.isfinite(sum(parts)):
            extra["map"] = str(places[number])
            write_file_atomic(extra["map"], drawn.png(layout.rate))
        return Scored(file, math.fsum(parts), length, np.zeros(0), extra)

    return each_file(files, score), engine


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Score the clips of the split that files are compared with.

    Raises:
        UserError: there is no such data, or it is not of the model's kind.
    """
    from s4gen.cli.evaluate_audio import scoring

    found = reference_costs(scoring(as_for_eval(args), checkpoint))
    return per_token(found["nats"], found["lengths"])
