"""Measure what a model costs or gets right on real data: bits of a density model, accuracy or error of a predictor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli import evaluate_predictor
from s4gen.cli.arguments import number, path_to_write, refuse_foreign, whole
from s4gen.cli.dataset import add_dataset_argument
from s4gen.cli.media import MEDIA
from s4gen.cli.output import check_file, json_text, print_json
from s4gen.cli.shards import add_shard_argument, check_part_output
from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic

if TYPE_CHECKING:
    from s4gen.cli.evaluate_common import Outcome

SUMMARY = (
    "Measure bits per dimension of real images, perplexity of real text, or bits per sample of recordings, exactly; "
    "or the accuracy of a classifier, the error of a forecaster."
)
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen eval mnist-small --limit 200",
    "s4gen eval wikitext2-small --windows 512 --json",
    "s4gen eval fsdd-small --rate 0.5",
)

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
    parser.add_argument("--engine", choices=ENGINES, help="engine for --mode recurrent (default: eager)")
    parser.add_argument(
        "--batch",
        metavar="B",
        type=whole(1),
        default=50,
        help="images, clips or windows that are scored at a time (default: 50)",
    )
    parser.add_argument(
        "--chunk",
        metavar="T",
        type=whole(1),
        help="text only: tokens scored at a time, which changes speed and memory alone (default: 8192)",
    )
    parser.add_argument(
        "--windows",
        metavar="T",
        type=whole(1),
        help="text only: score windows of T tokens, each from a fresh state, as most published numbers are; without "
        "it, the split is one stream",
    )
    parser.add_argument(
        "--rate",
        metavar="FACTOR",
        type=number("a factor greater than 0, such as 0.5", lambda value: value > 0),
        help="sound only: score at FACTOR times the model's sampling rate, without training again; recordings are "
        "converted to it, and every dt of the model is divided by FACTOR",
    )
    parser.add_argument(
        "--keep-dt",
        action="store_true",
        help="with --rate, of a classifier or regression of audio: leave every dt as it is, which is the control",
    )
    add_dataset_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "-o", "--out", metavar="PATH", type=path_to_write, help="also write what --json prints to this file, NAME.json"
    )
    add_shard_argument(parser)
    parser.add_argument("--force", action="store_true", help="write over what is at PATH")


def run(args: argparse.Namespace) -> int:
    if args.engine is not None and args.mode == "conv":
        raise UserError(
            f"--engine {args.engine} is for --mode recurrent: the convolution runs in no engine; add that mode"
        )
    if args.shard is not None:
        check_part_output(args)
        if args.json:
            raise UserError("--json prints a result, and a part has none; give it to s4gen merge")
    elif args.out is not None:
        check_result(args.out, args.force)
    from s4gen.checkpoint import PredictorCheckpoint, load_any
    from s4gen.cli.evaluate_common import score_part, scored

    checkpoint = load_any(args.checkpoint)
    kind = checkpoint.config.layout.kind
    if isinstance(checkpoint, PredictorCheckpoint):
        if args.shard is not None:
            raise UserError(f"--shard is for density models, and {args.checkpoint} is none; leave it out")
        report(args, evaluate_predictor.evaluate(args, checkpoint))
        return 0
    if args.keep_dt:
        raise UserError("--keep-dt is the control for predictors of audio at another --rate; leave it out")
    check_options(args, kind)
    scoring = MEDIA[kind].scoring(args, checkpoint)
    if args.shard is not None:
        score_part(args, checkpoint, scoring)
    else:
        report(args, scored(args, scoring))
    return 0


def report(args: argparse.Namespace, outcome: Outcome) -> None:
    """Print a result, and write it to the file that `-o` names, if there is one."""
    if args.out is not None:
        write_file_atomic(args.out, (json_text(outcome.values) + "\n").encode())
    if args.json:
        print_json(outcome.values)
    else:
        print(outcome.text)


def check_result(out: Path, force: bool) -> None:
    """Refuse, before any work, a place where a result cannot or should not be written.

    Raises:
        UserError: it does not end in .json, is there already, or cannot be written.
    """
    if out.suffix.lower() != ".json":
        raise UserError(f"{out}: a result is written as JSON; use a name that ends in .json")
    check_file(out, force)


def check_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that say nothing to a model of this kind.

    Raises:
        UserError: there is one.
    """
    given = {"--chunk": args.chunk, "--windows": args.windows, "--rate": args.rate}
    for option, kinds in GOES_WITH.items():
        if given[option] is not None:
            refuse_foreign(option, kinds, kind, args.checkpoint)
