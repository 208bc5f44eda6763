"""Run `s4gen eval` for a model of sound: bits per sample of recordings, at its own sampling rate or at another."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from s4gen.bulk.dealing import Batches, Piece
from s4gen.cli.bounds import check_scored
from s4gen.cli.dataset import dataset_of, open_clips
from s4gen.cli.evaluate_common import Outcome, Scoring, Shown, about, check_is_number, view_in_words, view_of
from s4gen.cli.rates import at_rate, rate_of
from s4gen.cli.shards import digest_of_array
from s4gen.showing.words import plural, with_error

if TYPE_CHECKING:
    from s4gen.bulk.block_files import Arrays
    from s4gen.checkpoint import Checkpoint


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to score the recordings that the arguments name, and to compress them.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    import numpy as np

    from s4gen.data.audio import format_of
    from s4gen.data.audio.batches import gather, in_order_of_length
    from s4gen.data.audio.references import compressed_bits
    from s4gen.evaluate.audio import batch_nats, piece_of
    from s4gen.models.states import least_length
    from s4gen.sampling.convert import convert
    from s4gen.sampling.converted import recurrent_of

    format, model, factor = format_of(checkpoint.config.layout), checkpoint.model, args.rate or 1.0  # type: ignore[arg-type]
    if factor != 1:
        format = dataclasses.replace(format, rate=rate_of(format.rate, factor))
        model = at_rate(checkpoint, factor)
        print(f"s4gen: {what_a_rate_means(checkpoint, factor)}", file=sys.stderr)
    dataset = args.dataset or dataset_of(checkpoint)
    audio = open_clips(checkpoint, dataset, args.split, format)
    audio = audio.subset(np.arange(min(len(audio), args.limit or len(audio))))
    # The constants that a converted checkpoint stores are those of its own rate.
    converted = (lambda: recurrent_of(checkpoint)) if factor == 1 else (lambda: convert(model))
    rows, longest = min(args.batch, len(audio)), int(audio.lengths.max(initial=1))
    check_scored(model.config, rows, piece_of(rows, longest), f"choose a smaller --batch (now {args.batch:,})")
    view = view_of(args, model, converted, int(audio.lengths.sum()), rows, in_pieces=True)
    windows, order = in_order_of_length(audio, None)

    def score(piece: Piece) -> Arrays:
        # Padded to the longest clip of the whole batch, so that nothing is rounded in another way.
        batch = gather(audio, windows, order[piece.batch.start : piece.batch.stop]).part(piece.within)
        size = piece_of(len(piece.batch), batch.codes.shape[1], least_length(model.config))
        nats = batch_nats(view.score, batch, model.bos, size)
        return {"nats": nats[piece.extra :], "lengths": batch.lengths[piece.extra :].numpy()}

    # One part knows what the compressors make of all clips; it is the first, which every run has.
    first = args.shard is None or args.shard.number == 0
    shown = {"dataset": dataset, "rate": format.rate, "rate_factor": float(factor)}
    shown["references"] = compressed_bits(audio) if first else {}
    options: dict[str, Any] = {"rate": format.rate}
    if args.shard is not None:
        options |= {"data": digest_of_array(audio.codes), "lengths": digest_of_array(audio.lengths)}
    return Scoring("audio", view, Batches(len(order), args.batch), score, outcome, shown, options, "clip")


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return bits per sample of recordings whose scores are `arrays`, beside those of compressors."""
    from s4gen.evaluate.audio import audio_evaluation

    found = audio_evaluation(arrays["nats"], arrays["lengths"], shown["mode"], seconds)
    check_is_number(found.bits_per_sample, shown["checkpoint"])
    rates = {name: shown[name] for name in ("rate", "rate_factor", "references")}
    others = ", ".join(f"{name.replace('_', ' of the ')} {bits:.4f}" for name, bits in shown["references"].items())
    text = (
        f"{shown['checkpoint']} on {shown['dataset']} {shown['split']} at {shown['rate']:,} Hz: "
        f"{with_error(found.bits_per_sample, found.stderr)} bits/sample ({plural(found.n_sequences, 'clip')}, "
        f"{plural(found.n_samples, 'sample')}, {view_in_words(shown)}, {found.seconds:.1f} s)\n"
        f"for comparison, the same clips by compressors: {others} bits/sample"
    )
    return Outcome(dataclasses.asdict(found) | rates | about(shown), text)


def what_a_rate_means(checkpoint: Checkpoint, factor: float) -> str:
    """Say in one line what is done for another rate, and what is not."""
    rate = checkpoint.config.layout.length
    pooled = ""
    if checkpoint.config.model.pool:
        pooled = f"; pooling windows hold as many samples as before, which last {1 / factor:.3g} times as long"
    return (
        f"--rate {factor:g}: recordings at {rate_of(rate, factor):,} samples per second instead of {rate:,}, and every "
        f"dt of the model times {1 / factor:.3g}{pooled}; bits per sample compare with those of models of that rate"
    )
