"""`s4gen eval` of a language model: perplexity of a split, as one stream or in windows."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from s4gen.bulk.dealing import Piece, own_rows
from s4gen.cli.bounds import check_scored
from s4gen.cli.dataset import dataset_of, open_text
from s4gen.cli.evaluate_common import Outcome, Scoring, Shown, about, check_is_number, view_in_words, view_of
from s4gen.cli.shards import digest_of_array
from s4gen.errors import UserError
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.bulk.block_files import Arrays
    from s4gen.checkpoint import Checkpoint

CHUNK = 8192
"""Tokens of the stream at a time, where --chunk does not say."""


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to score the text that the arguments name, by the protocol that they ask for.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    from s4gen.evaluate.text import Windows
    from s4gen.models.kept_kernels import keep_kernels
    from s4gen.sampling.converted import recurrent_of

    if args.chunk is not None and args.windows is not None:
        raise UserError("--chunk is of the stream, --windows is the other protocol; leave one out")
    dataset, model = args.dataset or dataset_of(checkpoint), checkpoint.model
    text = open_text(checkpoint, dataset, args.split)
    tokens, is_stream = text.tokens[: args.limit], args.windows is None
    length = (args.chunk or CHUNK) if is_stream else args.windows
    # A length beyond the text is that of the text, so that nothing is as large as a number that somebody wrote.
    windows = Windows(tokens, model.bos, min(length, len(tokens)), 1 if is_stream else args.batch, is_stream)
    rows = min(windows.rows, windows.batches.n)
    remedy = f"choose a smaller {'--chunk' if is_stream else '--windows or --batch'}"
    check_scored(model.config, rows, windows.length, remedy)
    view = view_of(args, model, lambda: recurrent_of(checkpoint), len(tokens), rows)
    if view.engine is None:  # chunks and windows are all of one length, the last one apart: they have one kernel
        keep_kernels(model)
    state: Any = None

    def score(piece: Piece) -> Arrays:
        nonlocal state
        nats, state = windows.nats(view.score, piece.computed, state)
        return {"nats": nats[piece.extra :]}

    shown = {"dataset": dataset, "length": length, "protocol": windows.protocol, "n_tokens": len(tokens)}
    shown |= {"tokens": len(text), "words": text.words, "text_bytes": text.text_bytes}
    options: dict[str, Any] = {}
    if args.shard is not None:
        options = {"data": digest_of_array(tokens), "length": length, "protocol": windows.protocol}
        past = own_rows(windows.batches, args.shard).start * length
        if is_stream and past:
            print(
                f"s4gen: a stream has one past, so this part also reads the {past:,} tokens before its own; "
                "parts of --windows T share the work",
                file=sys.stderr,
            )
    return Scoring("text", view, windows.batches, score, outcome, shown, options, "window", carries=is_stream)


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return the perplexity of a text whose scores are `arrays`."""
    from s4gen.evaluate.text import Counts, text_evaluation

    counts = Counts(shown["tokens"], shown["words"], shown["text_bytes"])
    protocol, length = shown["protocol"], shown["length"]
    found = text_evaluation(arrays["nats"], shown["n_tokens"], counts, protocol, length, seconds)
    check_is_number(found.nats, shown["checkpoint"])
    values = dataclasses.asdict(found) | {"mode": shown["mode"]} | about(shown)
    way = "as one stream" if protocol == "stream" else f"in windows of {length}"
    line = (
        f"{shown['checkpoint']} on {shown['dataset']} {shown['split']}, {way}: perplexity {found.word_perplexity:.2f} "
        f"per word, {found.perplexity:.2f} per token, {found.bits_per_byte:.4f} bits/byte "
        f"({plural(found.n_tokens, 'token')}, {plural(found.n_words, 'word')}, {view_in_words(shown)}, "
        f"{found.seconds:.1f} s)"
    )
    return Outcome(values, line)
