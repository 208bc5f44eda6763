"""Run `s4gen export`, which writes a model for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.exporting.programs import Check

SUMMARY = "Write a model for other programs: its step as ONNX or for PyTorch alone, or its whole generation as C++."
EXAMPLES = (
    "s4gen export mnist-small runs/onnx --format onnx",
    "s4gen export mnist-small runs/native --format native",
)
FORMATS = ("onnx", "torch", "native")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument("out", metavar="OUT", type=path_to_write, help="folder to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        required=True,
        help="onnx: step.onnx for onnxruntime; torch: step.pt2, which PyTorch loads without s4gen; native: plan, "
        "C++ source and Makefile of a program that needs no Python",
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")


def run(args: argparse.Namespace) -> int:
    check_folder(args.out, args.force)
    from s4gen.checkpoint import TOKENIZER_FILE, load_checkpoint
    from s4gen.sampling.converted import recurrent_of

    checkpoint = load_checkpoint(args.checkpoint)
    recurrent = recurrent_of(checkpoint)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        lines = _write(args.format, recurrent, args.out)
        if (checkpoint.path / TOKENIZER_FILE).is_file():
            (args.out / TOKENIZER_FILE).write_bytes((checkpoint.path / TOKENIZER_FILE).read_bytes())
    except OSError as error:
        raise UserError(f"{args.out} cannot be written: {error.strerror}") from None
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.is_file())
    print("\n".join([*lines, f"written to {args.out}, {size / 1e6:.2f} MB"]))
    return 0


def _write(format: str, recurrent: object, out: Path) -> list[str]:
    """Write one format, and return lines with the result of the check and a command to try next."""
    from s4gen.exporting import programs, source
    from s4gen.sampling.convert import RecurrentModel

    assert isinstance(recurrent, RecurrentModel)
    if format == "native":
        source.write_native(recurrent, out)
        return [f"cd {out} && make && ./generate"]
    found = (programs.write_onnx if format == "onnx" else programs.write_torch)(recurrent, out)
    return [_verdict(found), f"python {out / 'generate.py'}"]


def _verdict(check: Check | None) -> str:
    if check is None:
        return "not verified: onnxruntime is not installed"
    return (
        f"verified: log-probabilities differ by {check.difference:.1e} at most, {check.greedy_tokens} greedy tokens "
        f"are the same; {check.tokens_per_second:,.0f} tokens/s, one at a time"
    )


def check_folder(out: Path, overwrite: bool) -> None:
    """Check, before any work, that `out` is a folder to write into, or can be made one.

    Raises:
        UserError: `out` is or looks like a file, or it is a folder that is not empty and `overwrite` is not set.
    """
    if out.suffix in (".onnx", ".pt2", ".pt"):
        raise UserError(f"{out}: a folder is written, with a file step{out.suffix} in it; leave out {out.suffix}")
    if out.is_file():
        raise UserError(f"{out} is a file; choose another name for the folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} exists and is not empty; choose another name, or write into it with --force")
