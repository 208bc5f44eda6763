"""Say what images, texts or recordings cost under a model: how likely each is, where it is odd, and if it is usual."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.arguments import path_to_write, whole
from s4gen.cli.media import MEDIA
from s4gen.cli.output import check_folder, print_json, shows_progress
from s4gen.config.names import ENGINES
from s4gen.errors import UserError, printable
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.cli.score_common import Failed, Reference, Scored

SUMMARY = "Say what image, text or sound files cost under a model, in bits, and show where; or if they are usual."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen score mnist-small digit.png --map maps --against mnist-mini",
    "s4gen score wikitext2-small page.txt --json",
)

COMPARED = 500
"""Sequences of a split that files are compared with, unless --limit says otherwise."""
UNITS = {"image": "bits/dim", "text": "bits/token", "audio": "bits/sample"}
"""The names of bits per token, by kind of file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="images of the model's size, texts, or recordings, as the model is"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--csv", action="store_true", help="print a table of comma-separated values")
    parser.add_argument(
        "--map",
        metavar="DIR",
        type=path_to_write,
        help="write into this folder what each pixel, sample or word cost, as a picture over the file: NAME.cost.png, "
        "or NAME.cost.html for texts",
    )
    parser.add_argument(
        "--against",
        metavar="DATASET",
        help="add the percentile of each file among the sequences of a data set: the share of them that cost less per "
        "token",
    )
    parser.add_argument(
        "--split",
        choices=("test", "train", "validation"),
        help="the split that --against compares with (default: test)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole(1),
        help=f"compare with the first N images, clips or windows of text (default: {COMPARED})",
    )
    parser.add_argument(
        "--classes",
        metavar="CLASS",
        nargs="+",
        action="extend",
        help="what a file may be of, for a model that is conditional on classes: names, lists and ranges, such as 0-9 "
        "or 3,7 (default: all, each as likely as any other)",
    )
    parser.add_argument(
        "--mode",
        choices=("conv", "recurrent"),
        default="conv",
        help="score in parallel by convolution, or token by token by recurrence (default: conv)",
    )
    parser.add_argument("--engine", choices=ENGINES, help="engine for --mode recurrent (default: eager)")
    parser.add_argument(
        "--batch", metavar="B", type=whole(1), default=50, help="images, clips or windows at a time (default: 50)"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder DIR that holds something")


def run(args: argparse.Namespace) -> int:
    if args.json and args.csv:
        raise UserError("--json and --csv are two forms of one result; leave one out")
    if args.engine is not None and args.mode == "conv":
        raise UserError(f"--engine {args.engine} is for --mode recurrent: the convolution runs in no engine")
    _check_together(args)
    args.split, args.limit = args.split or "test", args.limit or COMPARED
    if args.map is not None:
        check_folder(args.map, args.force)
    from s4gen.checkpoint import load_checkpoint
    from s4gen.cli.score_common import Failed, Scored
    from s4gen.machine.memory import keep_freed_memory

    keep_freed_memory()
    checkpoint = load_checkpoint(args.checkpoint)
    kind = checkpoint.config.layout.kind
    medium = MEDIA[kind]
    results, engine = medium.score_files(args, checkpoint, args.files)
    against = None if args.against is None else medium.reference(args, checkpoint)
    found = []
    with progress_bar(len(args.files), "file", shows_progress(), desc="scoring") as bar:
        for result in results:
            found.append(result)
            bar.update(1)
    scored = [result for result in found if isinstance(result, Scored)]
    failed = [result for result in found if isinstance(result, Failed)]
    rows = [_facts(each, kind, against) for each in scored]
    if args.json:
        print_json(_object(args, kind, engine, rows, failed, against))
    elif args.csv:
        _print_csv(rows)
    elif rows:
        print(table(rows, UNITS[kind]))
        if against is not None:
            counted = f"{plural(against.n, 'sequence')} of {args.against} {args.split}"
            print(f"percentile: how many of 100 among {counted} cost less per token")
    sys.stdout.flush()  # what went well stands above what did not
    for each in failed:
        print(f"s4gen: error: {each.error}", file=sys.stderr)
    if failed and len(found) > 1:
        print(f"s4gen: error: {len(failed)} of {len(found)} files could not be scored", file=sys.stderr)
    return 2 if failed else 0


def _check_together(args: argparse.Namespace) -> None:
    """Refuse options that would change nothing.

    Raises:
        UserError: there is one.
    """
    alone = [option for option, value in (("--split", args.split), ("--limit", args.limit)) if value is not None]
    if args.against is None and alone:
        raise UserError(f"{alone[0]} is about the data set of --against, which is not given")
    if args.force and args.map is None:
        raise UserError("--force is about the folder of --map, which is not given")


def _facts(scored: Scored, kind: str, against: Reference | None) -> dict[str, Any]:
    """Return what is said of a file, by name."""
    facts: dict[str, Any] = {"path": scored.path, "nats": scored.nats, "bits": scored.bits}
    facts |= {"bits_per_dim": scored.bits_per_dim, "length": scored.length} | scored.extra
    return facts if against is None else facts | {"percentile": against.percentile(scored)}


def _object(
    args: argparse.Namespace,
    kind: str,
    engine: str | None,
    rows: Sequence[dict[str, Any]],
    failed: Sequence[Failed],
    against: Reference | None,
) -> dict[str, Any]:
    """Return what `--json` prints."""
    found: dict[str, Any] = {"checkpoint": args.checkpoint, "unit": UNITS[kind], "mode": args.mode, "engine": engine}
    found |= {"files": list(rows), "failed": [{"path": each.path, "error": each.error} for each in failed]}
    if against is not None:
        found["against"] = {"dataset": args.against, "split": args.split, "n": against.n}
    return found


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts without tables: of classes the likeliest one and its probability."""
    facts = dict(facts)
    if classes := facts.pop("classes", None):
        likeliest = max(classes, key=lambda name: classes[name])
        facts |= {"class": likeliest, "probability": classes[likeliest]}
    return facts


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    flat = [_flat(facts) for facts in rows]
    names = [*flat[0]] if flat else ["path", "nats", "bits", "bits_per_dim", "length"]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def table(rows: Sequence[dict[str, Any]], unit: str) -> str:
    """Return a table for people: names on the left, numbers right-aligned."""
    forms = {
        "nats": ("nats", ".1f"),
        "bits": ("bits", ".1f"),
        "bits_per_dim": (unit, ".4f"),
        "bits_per_byte": ("bits/byte", ".4f"),
        "length": ("length", ",d"),
        "bytes": ("bytes", ",d"),
        "seconds": ("seconds", ".2f"),
        "percentile": ("percentile", ".1f"),
        "class": ("class", "s"),
        "probability": ("p(class)", ".3f"),
    }
    flat = [_flat(facts) for facts in rows]
    names = [name for name in forms if name in flat[0]]
    cells = [["file", *(forms[name][0] for name in names)]]
    cells += [[printable(row["path"]), *(format(row[name], forms[name][1]) for name in names)] for row in flat]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        right = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([f"{first:<{widths[0]}}", *right]))
    return "\n".join(lines)
