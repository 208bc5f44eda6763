"""Train, convert, sample and measure in a few minutes, on images that come with s4gen."""

from __future__ import annotations

import argparse
from pathlib import Path

from s4gen.cli.arguments import path_to_write

SUMMARY = "Train, convert, sample and measure in a few minutes, on images that come with s4gen."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen demo",
    "s4gen demo --out /tmp/demo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        type=path_to_write,
        default=Path("runs/demo"),
        help="where to write report.html and what it shows; replaces an earlier demo (default: runs/demo)",
    )


def run(args: argparse.Namespace) -> int:
    from s4gen import demo

    demo.run(args.out)
    return 0
