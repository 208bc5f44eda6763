"""Measure bits per dimension of real images, perplexity of real text, or bits per sample of recordings, exactly."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from s4gen.cli import evaluate_audio, evaluate_text
from s4gen.cli.arguments import number, whole
from s4gen.cli.dataset import add_dataset_argument, dataset_of
from s4gen.cli.media import refuse_foreign
from s4gen.cli.opening import open_images
from s4gen.cli.output import print_json, shows_progress
from s4gen.config.names import ENGINES, IMAGE_PREFIX
from s4gen.device import best_device
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUMMARY = (
    "Measure bits per dimension of real images, perplexity of real text, or bits per sample of recordings, exactly."
)
"""The command line shows this sentence for `-h`."""

GOES_WITH = {
    "--chunk": ("text",),
    "--windows": ("text",),
    "--rate": ("audio",),
}
"""Each of these options goes with models of these kinds alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument("--split", choices=("test", "train", "validation"), default="test", help="default: test")
    parser.add_argument("--limit", metavar="N", type=whole(1), help="score the first N images, clips or tokens only")
    parser.add_argument(
        "--mode",
        choices=("conv", "recurrent"),
        default="conv",
        help="score whole sequences by convolution, or token by token by recurrence (default: conv)",
    )
    parser.add_argument("--engine", choices=ENGINES, help="of the recurrent mode (default: eager)")
    parser.add_argument(
        "--batch", metavar="B", type=whole(1), default=50, help="images, clips or windows at a time (default: 50)"
    )
    parser.add_argument(
        "--chunk",
        metavar="T",
        type=whole(1),
        help="of text: tokens at a time of the one stream that a split is; changes speed and memory only (default: "
        "8192)",
    )
    parser.add_argument(
        "--windows",
        metavar="T",
        type=whole(1),
        help="of text: instead of one stream, windows of T tokens, each from its start, as most published numbers are",
    )
    parser.add_argument(
        "--rate",
        metavar="FACTOR",
        type=number("a factor greater than 0, such as 0.5", lambda value: value > 0),
        help="of audio: without training again, at this many times the model's sampling rate: recordings are "
        "converted to it, and every dt of the model is divided by the factor",
    )
    add_dataset_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.engine is not None and args.mode == "conv":
        raise UserError(
            f"--engine {args.engine} is for --mode recurrent: the convolution runs in no engine; add that mode"
        )
    from s4gen.checkpoint import load_checkpoint
    from s4gen.evaluation import evaluate
    from s4gen.sampling.convert import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.sampling.scoring import nats_by_engine

    checkpoint = load_checkpoint(args.checkpoint)
    kind = checkpoint.config.layout.kind
    check_options(args, kind)
    if kind != "image":
        return (evaluate_text if kind == "text" else evaluate_audio).run(args, checkpoint)
    dataset = args.dataset or dataset_of(checkpoint)
    if args.split == "validation" and not dataset.startswith(IMAGE_PREFIX):
        refuse_foreign("--split validation", ("text", "audio"), kind, args.checkpoint)
    sequences, labels = open_images(checkpoint, dataset, args.split, args.limit)
    device = best_device()
    about = {"split": args.split, "dataset": dataset, "checkpoint": args.checkpoint}
    way = f"{args.mode} mode"
    if args.mode == "conv":
        model = checkpoint.model.to(device)

        def score(x: Tensor, label: Tensor | None = None) -> Tensor:
            return model.log_prob(x, label)
    else:
        recurrent = recurrent_of(checkpoint).to(device)
        engine = make_engine(args.engine or "eager", recurrent, tokens=sequences.numel())

        def score(x: Tensor, label: Tensor | None = None) -> Tensor:
            return -nats_by_engine(recurrent, engine, x, label).sum(dim=-1)

    def score_there(*batch: Tensor) -> Tensor:
        return score(*(column.to(device) for column in batch))

    result = evaluate(score_there, sequences, args.batch, args.mode, shows_progress(), labels)
    if args.mode == "recurrent":  # asked last: an engine that fails goes on as another
        about["engine"] = engine.name
        way += f", {engine.name} engine"
    if args.json:
        print_json(dataclasses.asdict(result) | about)
    else:
        print(
            f"{args.checkpoint} on {dataset} {args.split}: {result.bits_per_dim:.4f} ± {result.stderr:.4f} "
            f"bits/dim ({result.n_sequences} images, {way}, {result.seconds:.1f} s)"
        )
    return 0


def check_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse an argument that means nothing for a model of this kind."""
    given = {"--chunk": args.chunk, "--windows": args.windows, "--rate": args.rate}
    for option, kinds in GOES_WITH.items():
        if given[option] is not None:
            refuse_foreign(option, kinds, kind, args.checkpoint)
