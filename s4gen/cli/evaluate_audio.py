"""`s4gen eval` of a model of audio: bits per sample of recordings, at its own sampling rate or at another."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from s4gen.cli.dataset import dataset_of, open_clips
from s4gen.cli.evaluate_common import Outcome, check_is_number, view_of
from s4gen.cli.output import shows_progress
from s4gen.cli.rates import at_rate, rate_of

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint


def evaluate(args: argparse.Namespace, checkpoint: Checkpoint) -> Outcome:
    """Measure bits per sample of the recordings that the arguments name, and what compressors make of the same ones.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    import numpy as np

    from s4gen.data.audio import format_of
    from s4gen.data.audio.batches import evaluation_batches
    from s4gen.data.audio.references import compressed_bits
    from s4gen.evaluate.audio import evaluate_clips
    from s4gen.sampling.convert import convert, recurrent_of

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
    view = view_of(args, model, converted, int(audio.lengths.sum()))
    batches = evaluation_batches(audio, None, args.batch)
    found = evaluate_clips(view.score, batches, model.bos, len(audio), args.mode, shows_progress())
    check_is_number(found.bits_per_sample, args.checkpoint)
    references = compressed_bits(audio)
    rates = {"rate": format.rate, "rate_factor": factor, "references": references}
    others = ", ".join(f"{name.replace('_', ' of the ')} {bits:.4f}" for name, bits in references.items())
    text = (
        f"{args.checkpoint} on {dataset} {args.split} at {format.rate:,} Hz: {found.bits_per_sample:.4f} ± "
        f"{found.stderr:.4f} bits/sample ({found.n_sequences:,} clips, {found.n_samples:,} samples, {view}, "
        f"{found.seconds:.1f} s)\n"
        f"for comparison, the same clips by compressors: {others} bits/sample"
    )
    return Outcome(dataclasses.asdict(found) | rates | view.about(args, dataset), text)


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
