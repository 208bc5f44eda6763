"""`s4gen eval` of a model of images: bits per dimension of a split."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from s4gen.bulk.dealing import Batches, Piece
from s4gen.cli.arguments import refuse_foreign
from s4gen.cli.bounds import check_scored
from s4gen.cli.dataset import dataset_of, open_images
from s4gen.cli.evaluate_common import Outcome, Scoring, Shown, about, check_is_number, view_in_words, view_of
from s4gen.cli.shards import digest_of_array
from s4gen.config.names import IMAGE_PREFIX
from s4gen.errors import UserError
from s4gen.showing.words import plural, with_error

if TYPE_CHECKING:
    from s4gen.bulk.block_files import Arrays
    from s4gen.checkpoint import Checkpoint


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to score the images that the arguments name.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    from s4gen.evaluate.images import image_nats
    from s4gen.sampling.converted import recurrent_of

    dataset, model = args.dataset or dataset_of(checkpoint), checkpoint.model
    if args.split == "validation" and not dataset.startswith(IMAGE_PREFIX):
        refuse_foreign("--split validation", ("text", "audio"), "image", args.checkpoint)
    sequences, labels = open_images(checkpoint, dataset, args.split, args.limit)
    if not len(sequences):
        raise UserError("there are no sequences to evaluate")
    rows = min(args.batch, len(sequences))
    check_scored(model.config, rows, sequences.shape[1], f"choose a smaller --batch (now {args.batch:,})")
    view = view_of(args, model, lambda: recurrent_of(checkpoint), sequences.numel(), rows)

    def score(piece: Piece) -> Arrays:
        rows = slice(piece.computed.start, piece.computed.stop)
        nats = image_nats(view.score, sequences[rows], model.bos, None if labels is None else labels[rows])
        return {"nats": nats[piece.extra :]}

    options = {"data": digest_of_array(sequences.numpy())} if args.shard is not None else {}
    if args.shard is not None and labels is not None:
        options["labels"] = digest_of_array(labels.numpy())
    shown = {"dataset": dataset, "length": sequences.shape[1]}
    batches = Batches(len(sequences), args.batch)
    return Scoring("image", view, batches, score, outcome, shown, options, "seq")


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return bits per dimension of images whose scores are `arrays`."""
    from s4gen.evaluate.images import image_evaluation

    found = image_evaluation(arrays["nats"], shown["length"], shown["mode"], seconds)
    check_is_number(found.bits_per_dim, shown["checkpoint"])
    text = (
        f"{shown['checkpoint']} on {shown['dataset']} {shown['split']}: "
        f"{with_error(found.bits_per_dim, found.stderr)} bits/dim "
        f"({plural(found.n_sequences, 'image')}, {view_in_words(shown)}, {found.seconds:.1f} s)"
    )
    return Outcome(dataclasses.asdict(found) | about(shown), text)
