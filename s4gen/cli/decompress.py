"""Decompress a file of `s4gen compress`, with the checkpoint that it was compressed with."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write
from s4gen.cli.compress import add_batch
from s4gen.cli.output import check_file, print_json, shows_progress
from s4gen.errors import UserError, shortened
from s4gen.files.folders import user_path
from s4gen.files.parsing import reason
from s4gen.files.reading import read_bounded
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.compress.container import Container

SUMMARY = "Decompress a file of s4gen compress, with the checkpoint that it was compressed with."
"""The command line shows this sentence for `-h`."""
EXAMPLES = ("s4gen decompress mnist-small digits.s4z -o digits",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the one that FILE was compressed with, or a copy")
    parser.add_argument("file", metavar="FILE", type=user_path, help="a file of s4gen compress")
    parser.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        type=path_to_write,
        required=True,
        help="the folder that the files go to, by their old names, images as PNG; it is made if it is missing",
    )
    add_batch(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--force", action="store_true", help="write over existing files of the same names")


def run(args: argparse.Namespace) -> int:
    from s4gen.checkpoint import load_checkpoint
    from s4gen.compress.compressor import Coder, contents_of, decompress, names_in
    from s4gen.files.atomic import write_file_atomic

    container = _read(args.file)
    paths = [args.out / name for name in names_in(container)]
    _check_out(args.out, paths, args.force)
    checkpoint = load_checkpoint(args.checkpoint)
    began = time.perf_counter()
    try:
        coder, contents = Coder.of(checkpoint, container), contents_of(checkpoint)
        files = decompress(coder, contents, container, args.batch, shows_progress())
    except UserError as error:
        raise UserError(f"{args.file}: {error}") from error
    seconds = time.perf_counter() - began
    for path, content in zip(paths, files, strict=True):
        write_file_atomic(path, content)
    if args.json:
        written = [{"path": str(path), "bytes": len(content)} for path, content in zip(paths, files, strict=True)]
        print_json({"files": written, "seconds": seconds, "engine": container.engine, "target": container.target})
        return 0
    total = sum(map(len, files))
    print(f"{plural(len(files), 'file')} of {total:,} bytes in {args.out}")
    print(f"{seconds:.2f} s: {len(files) / seconds:.2f} files/s, {total / seconds / 1e6:.4f} MB/s ({container.engine})")
    return 0


def _read(path: Path) -> Container:
    """Read a compressed file.

    Raises:
        UserError: it is none, or it was cut or changed.
    """
    from s4gen.compress.container import MOST_BYTES, OtherVersionError, unpack

    try:
        return unpack(read_bounded(path, MOST_BYTES))
    except OtherVersionError as error:
        raise UserError(f"{path}: {error}; decompress it with the s4gen that wrote it") from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or no file of s4gen compress ({shortened(reason(error))}); copy it again"
        ) from error


def _check_out(folder: Path, paths: Sequence[Path], force: bool) -> None:
    """Refuse, before any work, a folder that files cannot or should not be written to.

    Raises:
        UserError: it is a file, it cannot be written to, or a file of one of these names is there already.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and files are to be written into it; choose another name")
    for path in paths:
        check_file(path, force)
