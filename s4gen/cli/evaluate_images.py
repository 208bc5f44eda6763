"""`s4gen eval` of a model of images: bits per dimension of a split."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from s4gen.cli.arguments import refuse_foreign
from s4gen.cli.dataset import dataset_of, open_images
from s4gen.cli.evaluate_common import Outcome, check_is_number, view_of
from s4gen.cli.output import shows_progress
from s4gen.config.names import IMAGE_PREFIX

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint


def evaluate(args: argparse.Namespace, checkpoint: Checkpoint) -> Outcome:
    """Measure bits per dimension of the images that the arguments name.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    from s4gen.evaluate.images import evaluate_images
    from s4gen.sampling.convert import recurrent_of

    dataset, model = args.dataset or dataset_of(checkpoint), checkpoint.model
    if args.split == "validation" and not dataset.startswith(IMAGE_PREFIX):
        refuse_foreign("--split validation", ("text", "audio"), "image", args.checkpoint)
    sequences, labels = open_images(checkpoint, dataset, args.split, args.limit)
    view = view_of(args, model, lambda: recurrent_of(checkpoint), sequences.numel())
    found = evaluate_images(view.score, sequences, model.bos, args.batch, args.mode, shows_progress(), labels)
    check_is_number(found.bits_per_dim, args.checkpoint)
    text = (
        f"{args.checkpoint} on {dataset} {args.split}: {found.bits_per_dim:.4f} ± {found.stderr:.4f} "
        f"bits/dim ({found.n_sequences} images, {view}, {found.seconds:.1f} s)"
    )
    return Outcome(dataclasses.asdict(found) | view.about(args, dataset), text)
