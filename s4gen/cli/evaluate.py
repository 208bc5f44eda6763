"""Measure bits per dimension on real images, exactly."""

from __future__ import annotations

import argparse
import dataclasses

from s4gen.cli.arguments import whole
from s4gen.cli.output import print_json, shows_progress
from s4gen.cli.subject import add_dataset_argument, best_device, dataset_of, load_sequences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument("--limit", metavar="N", type=whole(1), help="score the first N images only")
    parser.add_argument(
        "--mode",
        choices=("conv", "recurrent"),
        default="conv",
        help="score whole sequences by convolution, or token by token by recurrence (default: conv)",
    )
    parser.add_argument("--batch", metavar="B", type=whole(1), default=50, help="images at a time (default: 50)")
    add_dataset_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from s4gen.checkpoint import load_checkpoint
    from s4gen.evaluation import evaluate
    from s4gen.sampling.convert import load_recurrent

    checkpoint = load_checkpoint(args.checkpoint)
    dataset = args.dataset or dataset_of(checkpoint)
    sequences = load_sequences(dataset, args.split, args.limit, checkpoint.config)
    device = best_device()
    if args.mode == "conv":
        score = checkpoint.model.to(device).log_prob
    else:
        score = load_recurrent(args.checkpoint).to(device).log_prob_recurrent
    result = evaluate(lambda x: score(x.to(device)), sequences, args.batch, args.mode, shows_progress())
    if args.json:
        about = {"split": args.split, "dataset": dataset, "checkpoint": args.checkpoint}
        print_json(dataclasses.asdict(result) | about)
    else:
        print(
            f"{args.checkpoint} on {dataset} {args.split}: {result.bits_per_dim:.4f} ± {result.stderr:.4f} "
            f"bits/dim ({result.n_sequences} images, {result.mode} mode, {result.seconds:.1f} s)"
        )
    return 0
