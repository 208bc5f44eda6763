"""Measure bits per dimension of real images, perplexity of real text, or bits per sample of recordings, exactly."""

from __future__ import annotations

import argparse

from s4gen.cli.arguments import number, refuse_foreign, whole
from s4gen.cli.dataset import add_dataset_argument
from s4gen.cli.media import MEDIA
from s4gen.cli.output import print_json
from s4gen.config.names import ENGINES
from s4gen.errors import UserError

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
    add_dataset_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.engine is not None and args.mode == "conv":
        raise UserError(
            f"--engine {args.engine} is for --mode recurrent: the convolution runs in no engine; add that mode"
        )
    from s4gen.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(args.checkpoint)
    kind = checkpoint.config.layout.kind
    check_options(args, kind)
    outcome = MEDIA[kind].evaluate(args, checkpoint)
    if args.json:
        print_json(outcome.values)
    else:
        print(outcome.text)
    return 0


def check_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that say nothing to a model of this kind.

    Raises:
        UserError: there is one.
    """
    given = {"--chunk": args.chunk, "--windows": args.windows, "--rate": args.rate}
    for option, kinds in GOES_WITH.items():
        if given[option] is not None:
            refuse_foreign(option, kinds, kind, args.checkpoint)
