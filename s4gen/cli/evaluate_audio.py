"""`s4gen eval` of a model of audio: bits per sample of recordings, at its own sampling rate or at another."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from s4gen.cli.dataset import dataset_of
from s4gen.cli.opening import open_clips
from s4gen.cli.output import print_json, shows_progress
from s4gen.cli.rates import at_rate, rate_of
from s4gen.device import best_device

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.audio_evaluation import Score
    from s4gen.checkpoint import Checkpoint
    from s4gen.sampling.convert import RecurrentModel
    from s4gen.sampling.engines import Engine


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    import numpy as np

    from s4gen.audio_evaluation import by_convolution, evaluate_clips
    from s4gen.data.audio import format_of
    from s4gen.data.audio.batches import evaluation_batches
    from s4gen.data.audio.references import compressed_bits
    from s4gen.sampling.convert import convert, recurrent_of
    from s4gen.sampling.engines import make_engine

    format, model = format_of(checkpoint.config.layout), checkpoint.model  # type: ignore[arg-type]
    factor, device = args.rate or 1.0, best_device()
    if factor != 1:
        format = dataclasses.replace(format, rate=rate_of(format.rate, factor))
        model = at_rate(checkpoint, factor)
        print(f"s4gen: {what_a_rate_means(checkpoint, factor)}", file=sys.stderr)
    dataset = args.dataset or dataset_of(checkpoint)
    audio = open_clips(checkpoint, dataset, args.split, format)
    audio = audio.subset(np.arange(min(len(audio), args.limit or len(audio))))
    engine = None
    if args.mode == "conv":
        score = by_convolution(model.to(device))
    else:
        recurrent = (recurrent_of(checkpoint) if factor == 1 else convert(model)).to(device)
        engine = make_engine(args.engine or "eager", recurrent, tokens=int(audio.lengths.sum()))
        score = by_engine(recurrent, engine)
    batches = evaluation_batches(audio, None, args.batch)
    found = evaluate_clips(score, batches, len(audio), args.mode, shows_progress())
    references = compressed_bits(audio)
    about: dict[str, Any] = {"rate": format.rate, "rate_factor": factor, "references": references}
    about |= {"split": args.split, "dataset": dataset, "checkpoint": args.checkpoint}
    if engine is not None:  # asked last: an engine that fails goes on as another
        about["engine"] = engine.name
    if args.json:
        print_json(dataclasses.asdict(found) | about)
        return 0
    mode = f"{args.mode} mode" + (f", {engine.name} engine" if engine else "")
    print(
        f"{args.checkpoint} on {dataset} {args.split} at {format.rate:,} Hz: {found.bits_per_sample:.4f} ± "
        f"{found.stderr:.4f} bits/sample ({found.n_sequences:,} clips, {found.n_samples:,} samples, {mode}, "
        f"{found.seconds:.1f} s)"
    )
    others = ", ".join(f"{name.replace('_', ' of the ')} {bits:.4f}" for name, bits in references.items())
    print(f"for comparison, the same clips by compressors: {others} bits/sample")
    return 0


def by_engine(recurrent: RecurrentModel, engine: Engine) -> Score:
    """The recurrent view of a model, in this engine."""
    from s4gen.sampling.scoring import nats_by_engine

    def score(x: Tensor, label: Tensor | None) -> Tensor:
        return nats_by_engine(recurrent, engine, x.to(recurrent.device), label)

    return score


def what_a_rate_means(checkpoint: Checkpoint, factor: float) -> str:
    """What is done for another rate, and what is not, in one line."""
    rate = checkpoint.config.layout.length
    pooled = ""
    if checkpoint.config.model.pool:
        pooled = f"; pooling windows hold as many samples as before, which last {1 / factor:.3g} times as long"
    return (
        f"--rate {factor:g}: recordings at {rate_of(rate, factor):,} samples per second instead of {rate:,}, and every "
        f"dt of the model times {1 / factor:.3g}{pooled}; bits per sample compare with those of models of that rate"
    )
