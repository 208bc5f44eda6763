"""Compress images, texts or recordings without loss, by what a model predicts of them, into one file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write, refuse_foreign, whole
from s4gen.cli.output import check_file, print_json, shows_progress
from s4gen.config.names import CODING_ENGINES
from s4gen.errors import UserError, printable
from s4gen.files.folders import user_path
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.compress.compressor import Coder
    from s4gen.compress.container import Container
    from s4gen.compress.contents import Contents, Item

SUMMARY = "Compress images, texts or recordings without loss, by what a model predicts of them, into one file."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen compress mnist-small digits/*.png -o digits.s4z",
    "s4gen compress wikitext2-small page.txt -o page.s4z",
)

BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=user_path,
        help="images of the model's size, of which the pixels are kept; texts, of which every byte is kept; or "
        "recordings at the model's rate, as wav, of which every byte is kept, or flac, of which every sample is",
    )
    parser.add_argument(
        "-o", "--out", metavar="OUT", type=path_to_write, required=True, help="the one file for all, such as NAME.s4z"
    )
    parser.add_argument(
        "--lossy",
        action="store_true",
        help="take also what cannot be kept as it is: of recordings, converted to the model's rate and to mono, the "
        "model's codes alone are kept, and of an animated or turned image the first picture as it lies",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="decompress again and compare before OUT is written, which takes as long as compressing",
    )
    add_batch(parser)
    parser.add_argument(
        "--engine",
        choices=CODING_ENGINES,
        default="auto",
        help="that predicts; the same one is needed to decompress (default: auto, which is native where it came with "
        "s4gen or can be compiled)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--force", action="store_true", help="write over an existing OUT")


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add `--batch`."""
    parser.add_argument(
        "--batch",
        metavar="B",
        type=whole(1),
        default=BATCH,
        help=f"files side by side, which changes speed and memory only (default: {BATCH})",
    )


def run(args: argparse.Namespace) -> int:
    _check_out(args)
    from s4gen.checkpoint import load_checkpoint
    from s4gen.compress.compressor import Coder, compress, contents_of, read_items
    from s4gen.compress.container import pack
    from s4gen.files.atomic import write_file_atomic

    checkpoint = load_checkpoint(args.checkpoint)
    if args.lossy:
        refuse_foreign("--lossy", ("image", "audio"), checkpoint.config.layout.kind, args.checkpoint)
    contents = contents_of(checkpoint)
    items = read_items(contents, args.files, args.lossy)
    for note in (note for item in items for note in item.notes):
        print(f"s4gen: {printable(note)}", file=sys.stderr)
    coder = Coder.choose(checkpoint, args.engine)
    began = time.perf_counter()
    container = compress(coder, contents, items, args.batch, shows_progress())
    seconds = time.perf_counter() - began
    if args.verify:
        verify(coder, contents, container, items, args.batch)
    content = pack(container)
    write_file_atomic(args.out, content)
    _report(args, container, items, len(content), seconds)
    return 0


def verify(coder: Coder, contents: Contents, container: Container, items: Sequence[Item], batch: int) -> None:
    """Decompress a container and compare with the items that it was made of.

    Raises:
        UserError: something has not come back.
    """
    from s4gen.compress.compressor import decompress

    found = decompress(coder, contents, container, batch, shows_progress())
    for item, content in zip(items, found, strict=True):
        if content != contents.restore(item.tokens, item.fine, item.extra):
            raise UserError(f"{item.path} has not come back as it was, so nothing was written; choose another --engine")


def _check_out(args: argparse.Namespace) -> None:
    """Refuse, before any work, a place where the result cannot or should not be written.

    Raises:
        UserError: it is one.
    """
    check_file(args.out, args.force)
    for path in args.files:
        if args.out.exists() and path.exists() and os.path.samefile(args.out, path):
            raise UserError(f"{path} would be replaced by its compressed form; choose another name for -o")


def _report(
    args: argparse.Namespace, container: Container, items: Sequence[Item], written: int, seconds: float
) -> None:
    """Say what went in and what came out, in words or as JSON."""
    files = [
        {
            "path": str(item.path),
            "name": item.name,
            "bytes": item.size,
            "compressed_bytes": sum(len(block.coded) for block in entry.blocks),
            "length": entry.length,
        }
        for item, entry in zip(items, container.entries, strict=True)
    ]
    given = sum(item.size for item in items)
    if args.json:
        engine = {"engine": container.engine, "target": container.target}
        totals = {"bytes": given, "compressed_bytes": written, "seconds": seconds}
        print_json({"out": str(args.out), "files": files, **totals, **engine})
        return
    length = sum(entry.length for entry in container.entries)
    print(
        f"{plural(len(items), 'file')} of {given:,} bytes in {args.out}, {written:,} bytes: {_ratio(given / written)}, "
        f"{8 * written / length:.3f} bits per token"
    )
    print(f"{seconds:.2f} s: {len(items) / seconds:.2f} files/s, {given / seconds / 1e6:.4f} MB/s ({container.engine})")


def _ratio(smaller: float) -> str:
    """Say how many times smaller, or larger, files have become."""
    return f"{smaller:.2f} times smaller" if smaller >= 1 else f"{1 / smaller:.2f} times larger"
