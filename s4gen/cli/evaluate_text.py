"""`s4gen eval` of a language model: perplexity of a split, as one stream or in windows."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from s4gen.cli.dataset import dataset_of, open_text
from s4gen.cli.evaluate_common import Outcome, check_is_number, view_of
from s4gen.cli.output import shows_progress
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint

CHUNK = 8192
"""Tokens of the stream at a time, where --chunk does not say."""


def evaluate(args: argparse.Namespace, checkpoint: Checkpoint) -> Outcome:
    """Measure the perplexity of the text that the arguments name, by the protocol that they ask for.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    from s4gen.evaluate.text import evaluate_stream, evaluate_windows
    from s4gen.models.kept_kernels import keep_kernels
    from s4gen.sampling.convert import recurrent_of

    if args.chunk is not None and args.windows is not None:
        raise UserError("--chunk is of the stream, --windows is the other protocol; leave one out")
    dataset, model = args.dataset or dataset_of(checkpoint), checkpoint.model
    text = open_text(checkpoint, dataset, args.split)
    view = view_of(args, model, lambda: recurrent_of(checkpoint), args.limit or len(text))
    if view.engine is None:  # chunks and windows are all of one length, the last one apart: they have one kernel
        keep_kernels(model)
    if args.windows is None:
        found = evaluate_stream(view.score, text, model.bos, args.chunk or CHUNK, args.limit, shows_progress())
    else:
        found = evaluate_windows(view.score, text, model.bos, args.windows, args.batch, args.limit, shows_progress())
    check_is_number(found.nats, args.checkpoint)
    values = dataclasses.asdict(found) | {"mode": args.mode} | view.about(args, dataset)
    way = "as one stream" if args.windows is None else f"in windows of {found.length}"
    line = (
        f"{args.checkpoint} on {dataset} {args.split}, {way}: perplexity {found.word_perplexity:.2f} per word, "
        f"{found.perplexity:.2f} per token, {found.bits_per_byte:.4f} bits/byte "
        f"({found.n_tokens:,} tokens, {found.n_words:,} words, {view}, {found.seconds:.1f} s)"
    )
    return Outcome(values, line)
