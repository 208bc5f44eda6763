"""List what is in the cache (downloads, prepared data, the compiled engine), or remove it."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from s4gen.cli.output import print_json
from s4gen.files.folders import cache_folder

SUMMARY = "List what is in the cache (downloads, prepared data, the compiled engine), or remove it."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""
EXAMPLES = (
    "s4gen cache",
    "s4gen cache --clear",
)


OURS = (
    "tokens",
    "audio",
    "images",
    "generated",
    "wikitext",
    "hub",
    "engine-*",
    "cifar10-*.npz",
    "MNIST",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
)
"""Patterns of all that s4gen itself makes. S4GEN_CACHE may name any folder, and other files in it are never removed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear", action="store_true", help="remove it all; what is needed later is made or downloaded again"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    folder = cache_folder()
    sizes = {entry.name: _size(entry) for pattern in OURS for entry in sorted(folder.glob(pattern))}
    if args.clear:
        for name in sizes:
            _remove(folder / name)
    if args.json:
        print_json({"folder": str(folder), "bytes": sizes, "cleared": args.clear})
    else:
        print("\n".join(_lines(folder, sizes, args.clear)))
    return 0


def _lines(folder: Path, sizes: dict[str, int], cleared: bool) -> list[str]:
    total = sum(sizes.values())
    if cleared:
        return [f"removed {total / 1e6:,.1f} MB from {folder}"]
    lines: list[Any] = [f"{size / 1e6:12,.1f} MB  {name}" for name, size in sizes.items()]
    return [f"{folder}: {total / 1e6:,.1f} MB (S4GEN_CACHE names another folder)", *lines]


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(entry) for entry in path.iterdir())
    return path.lstat().st_size


def _remove(path: Path) -> None:
    """Remove a file or a folder; of a link only the link itself goes, not what it points at."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        os.unlink(path)
