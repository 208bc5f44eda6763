"""Write one page about runs and checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s4gen.cli.arguments import path_to_write
from s4gen.errors import UserError, printable

SUMMARY = "Write one HTML page about a run or a checkpoint, or about several side by side."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""
EXAMPLES = (
    "s4gen report runs/mnist-small",
    "s4gen report runs/first runs/second -o compare.html",
    "s4gen report mnist-small -o card.html",
)
PAGE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="the folder of a run, or a checkpoint: a path or a shipped name"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=path_to_write,
        help=f"where to write the page; without it, one run has it in its folder, as {PAGE}",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is no earlier page of this command")


def run(args: argparse.Namespace) -> int:
    from s4gen.cli.output import check_file
    from s4gen.reporting.page import sections_of
    from s4gen.reporting.records import read_records
    from s4gen.showing.report import is_report, write_report

    records = read_records(args.runs)
    out: Path | None = args.out
    if out is None:
        if len(records) > 1:
            raise UserError(f"{len(records)} runs go on one page: say where it is to be written with -o FILE")
        if not records[0].is_run:
            raise UserError(f"{args.runs[0]} is a checkpoint: say where the page is to be written with -o FILE")
        out = records[0].path / PAGE
    check_file(out, args.force or is_report(out))
    title = records[0].name if len(records) == 1 else f"{len(records)} runs"
    sections = sections_of(records)
    for record in records:
        for note in record.notes:
            print(f"s4gen: {printable(record.name)}: {printable(note)}", file=sys.stderr)
    write_report(out, f"s4gen: {title}", sections)
    print(f"written to {printable(str(out))}")
    return 0
