"""Draw images or texts, or complete given ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from s4gen.cli.arguments import number, whole
from s4gen.cli.output import check_file, check_output
from s4gen.cli.subject import add_dataset_argument
from s4gen.errors import UserError

TEXT_ENDINGS = (".txt", ".jsonl")
ENGINES = ("auto", "eager", "compiled", "native", "native-bf16", "native-int8")
"""Those of s4gen.sampling.engines, which takes seconds to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=Path,
        help="images, which need it: NAME.png for all in one grid, anything else is a folder with one PNG per image; "
        "texts: NAME.txt, or NAME.jsonl with tokens and their log-probabilities (default: as they are written, to "
        "the terminal)",
    )
    parser.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=whole(1),
        help="images or texts (default: 16 images, or 1 text; or one for each prompt)",
    )
    parser.add_argument("--seed", metavar="S", type=whole(0), default=0, help="same seed, same samples (default: 0)")
    _add_filters(parser)
    _add_prompt(parser)
    _add_text(parser)
    parser.add_argument("--batch", metavar="B", type=whole(1), default=64, help="samples at a time (default: 64)")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: the native engine where there is a C++ compiler (default: auto)",
    )
    parser.add_argument("--force", action="store_true", help="write over what is at PATH")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=number("a number greater than 0", lambda value: value > 0),
        default=1.0,
        help="below 1: likelier, less varied (default: 1)",
    )
    parser.add_argument(
        "--top-k",
        metavar="K",
        type=whole(0),
        default=0,
        help="draw from the K likeliest values only (0: all)",
    )
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=number("a number greater than 0, at most 1", lambda value: 0 < value <= 1),
        default=1.0,
        help="draw from the likeliest values that make up probability P (default: 1)",
    )
    parser.add_argument(
        "--min-p",
        metavar="P",
        type=number("a number from 0 to 1", lambda value: 0 <= value <= 1),
        default=0.0,
        help="leave out values less likely than P times the likeliest (default: 0)",
    )


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        metavar="PROMPT",
        nargs="+",
        help="continue these texts; or complete these image files, the word test standing for the first images of the "
        "test split",
    )
    parser.add_argument(
        "--prompt-rows",
        metavar="R",
        type=whole(1),
        help="rows to keep of each image (default: the upper half)",
    )
    add_dataset_argument(parser)


def _add_text(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help='prompts, one per line; or .jsonl, records with "prompt" or "text"',
    )
    group.add_argument("--max-tokens", metavar="T", type=whole(1), help="of each text (default: 200)")
    group.add_argument(
        "--stop", metavar="STRING", action="append", help="end a text before this string; may be given several times"
    )
    group.add_argument(
        "--repetition-penalty",
        metavar="R",
        type=number("a number greater than 0", lambda value: value > 0),
        help="the probability of a token that a text has had is taken to the power of R; above 1: less repetition "
        "(default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    writes_text = args.out is not None and args.out.suffix.lower() in TEXT_ENDINGS
    if args.out is not None:
        (check_file if writes_text else check_output)(args.out, args.force)
    if args.prompt is None and args.prompt_rows is not None:
        raise UserError("--prompt-rows says how much of a given image is kept; give one with --prompt")
    from s4gen.checkpoint import load_checkpoint
    from s4gen.cli import sample_images, sample_text
    from s4gen.config import TextLayout

    checkpoint = load_checkpoint(args.checkpoint)
    is_text = isinstance(checkpoint.config.layout, TextLayout)
    of_others = ("prompt_rows", "dataset") if is_text else ("prompts", "max_tokens", "stop", "repetition_penalty")
    given = [f"--{name.replace('_', '-')}" for name in of_others if getattr(args, name) is not None]
    if given:
        kinds = ("images", "text") if is_text else ("text", "images")
        raise UserError(f"{given[0]} is for {kinds[0]}, and {args.checkpoint} is a model of {kinds[1]}; leave it out")
    if args.out is None and not is_text:
        raise UserError("the following arguments are required: -o/--out (see s4gen sample -h)")
    if args.out is not None and is_text != writes_text:
        wanted = "texts are written as .txt or .jsonl" if is_text else "images are written as PNG"
        raise UserError(f"{args.out}: {wanted}; use a name that ends so" + ("" if is_text else ", or a folder"))
    return sample_text.run(args, checkpoint) if is_text else sample_images.run(args, checkpoint)
