"""Draw images, texts or sound, or complete given ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from s4gen.cli.arguments import number, refuse_foreign, whole
from s4gen.cli.dataset import add_dataset_argument
from s4gen.cli.filters import add_filters, filter_names
from s4gen.cli.media import MEDIA, kind_of_file
from s4gen.cli.output import check_file, check_output
from s4gen.cli.prompt_cache import add_prompt_cache, check_prompt_cache
from s4gen.cli.shards import add_shard_argument, check_part_output
from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.files.folders import user_path

SUMMARY = "Draw images, texts or sound, or complete given ones."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen sample mnist-small -n 64 --seed 0 -o runs/grid.png",
    's4gen sample wikitext2-small --prompt "The history of" --max-tokens 200',
    "s4gen sample fsdd-small -n 10 --classes 0-9 -o runs/digits",
)

OPTIONS = {
    **dict.fromkeys(("prompt_rows", "nearest", "dataset"), ("image",)),
    **dict.fromkeys(("prompts", "max_tokens", "stop", *filter_names("text")), ("text",)),
    **dict.fromkeys(("seconds", "rate", "select"), ("audio",)),
    "classes": ("image", "audio"),
}
"""Each of these options goes with models of these kinds alone."""


WHERE = """what PATH means:
  images   NAME.png                all in one grid
           anything else           a folder with one PNG for each image
  texts    NAME.txt                the texts, one after another
           NAME.jsonl              records with tokens and their log-probabilities
  sound    NAME.wav or NAME.flac   one clip, with NAME.png beside it
           -                       raw 16-bit PCM to standard output
           anything else           a folder with one wav file for each clip, picture.png (of the first 20) and
                                   samples.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = WHERE
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=user_path,
        help="where to write; see below what each name means. Texts need none: they appear as they are written",
    )
    parser.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=whole(1),
        help="how many images, texts or clips (default: 16 images, 1 text or 1 clip; or one for each prompt, or class)",
    )
    parser.add_argument("--seed", metavar="S", type=whole(0), default=0, help="same seed, same samples (default: 0)")
    add_filters(parser)
    _add_prompt(parser)
    _add_text(parser)
    _add_audio(parser)
    add_prompt_cache(parser)
    parser.add_argument(
        "--batch", metavar="B", type=whole(1), default=64, help="samples that are drawn at a time (default: 64)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: the native engine where it came with s4gen or can be compiled (default: auto)",
    )
    add_shard_argument(parser)
    parser.add_argument("--force", action="store_true", help="write over what is at PATH")


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        metavar="PROMPT",
        nargs="+",
        help="texts or recordings to continue, or image files to complete; 'test' means the first test images. An "
        "empty text is no prompt: its text is drawn from the start",
    )
    parser.add_argument(
        "--prompt-rows",
        metavar="R",
        type=whole(1),
        help="rows of each image that are kept as the prompt (default: the upper half)",
    )
    parser.add_argument(
        "--nearest",
        metavar="K",
        type=whole(1),
        help="show beside each image the K most similar training images, so that one sees whether it is a copy; needs "
        "-o NAME.png",
    )
    parser.add_argument(
        "--classes",
        metavar="CLASS",
        nargs="+",
        help="classes to draw, taken in turn: names, lists or ranges, such as cats, 3,7 or 0-9 (default: all)",
    )
    add_dataset_argument(parser)


def _add_text(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=user_path,
        help='a file of prompts, one per line; or a .jsonl file of records with "prompt" or "text"',
    )
    group.add_argument("--max-tokens", metavar="T", type=whole(1), help="tokens to draw for each text (default: 200)")
    group.add_argument(
        "--stop",
        metavar="STRING",
        action="append",
        help="end a text before this string, in which \\n is a line feed and \\t a tab; may be given several times",
    )
    add_filters(group, "text")


def _add_audio(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sound")
    group.add_argument(
        "--seconds",
        metavar="S",
        type=number("a number of seconds greater than 0", lambda value: value > 0),
        help="seconds to draw for each clip, after its prompt (default: 1)",
    )
    group.add_argument(
        "--rate",
        metavar="R",
        type=number("a factor greater than 0", lambda value: value > 0),
        help="draw at R times the sampling rate that the model was trained at; every dt of its state space layers is "
        "divided by R, and everything else stays",
    )
    group.add_argument(
        "--select",
        action="store_true",
        default=None,
        help="draw about 1.8 times as many clips, and of those with the same class and prompt leave out the least "
        "likely 40 %% and the likeliest 5 %%, as published with SaShiMi",
    )


def run(args: argparse.Namespace) -> int:
    wanted = _kind_by_name(args)
    if args.prompt is None and args.prompt_rows is not None:
        raise UserError("--prompt-rows says how much of a given image is kept; give one with --prompt")
    check_prompt_cache(args)
    from s4gen.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(args.checkpoint)
    kind = checkpoint.config.layout.kind
    check_options(args, kind)
    if args.out is None and kind != "text":
        raise UserError("the following arguments are required: -o/--out (see s4gen sample -h)")
    if args.shard is None and args.out is not None and wanted != kind and (wanted or kind == "text"):
        raise UserError(f"{args.out}: {MEDIA[kind].EXPECTED_NAME}")
    if kind == "text" and "" in (args.prompt or ()):
        print("s4gen: a prompt is empty, so its text is drawn from the start", file=sys.stderr)
    return MEDIA[kind].sample(args, checkpoint)


def _kind_by_name(args: argparse.Namespace) -> str | None:
    """Return the kind of samples that the name of the output is for; None: any kind, or the folder of a part.

    Raises:
        UserError: nothing can be written there, or something is to be kept.
    """
    if args.shard is not None:
        check_part_output(args)
        return None
    if args.out is None:
        return None
    wanted = "audio" if args.out == Path("-") else kind_of_file(args.out.suffix.lower())
    if wanted != "audio":  # of sound, what the name means is known when the model is
        (check_file if wanted == "text" else check_output)(args.out, args.force)
    return wanted


def check_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that say nothing to a model of this kind.

    Raises:
        UserError: there is one.
    """
    for name, kinds in OPTIONS.items():
        if getattr(args, name) is not None:
            refuse_foreign(f"--{name.replace('_', '-')}", kinds, kind, args.checkpoint)
