"""`--prompt-cache DIR`: prompts that were read once are not read again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write, whole
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.sampling.prompt_cache import PromptCache

DEFAULT_MB = 1024


def add_prompt_cache(parser: argparse.ArgumentParser) -> None:
    """Add `--prompt-cache DIR` and its size."""
    parser.add_argument(
        "--prompt-cache",
        metavar="DIR",
        type=path_to_write,
        help="keep the state behind each prompt in this folder, so that the same prompt, or one that begins alike, is "
        "not read again by this model; the folder holds the tokens of the prompts",
    )
    parser.add_argument(
        "--prompt-cache-mb",
        metavar="MB",
        type=whole(1),
        help=f"megabytes that the folder takes at most; the oldest states go (default: {DEFAULT_MB})",
    )


def check_prompt_cache(args: argparse.Namespace) -> None:
    """Refuse these options where they would do nothing.

    Raises:
        UserError: there is no prompt, or no folder that the size is of.
    """
    if args.prompt_cache is None and args.prompt_cache_mb is not None:
        raise UserError("--prompt-cache-mb is the size of a folder that --prompt-cache names; add that")
    if args.prompt_cache is not None and args.prompt is None and args.prompts is None:
        raise UserError("--prompt-cache keeps what was read of prompts; give one with --prompt, or leave it out")


def prompt_cache_of(args: argparse.Namespace) -> PromptCache | None:
    """Open the cache that `--prompt-cache` names; None if it names none.

    Raises:
        UserError: it is no folder, or cannot be made or read.
    """
    from s4gen.sampling.prompt_cache import PromptCache

    if args.prompt_cache is None:
        return None
    return PromptCache(args.prompt_cache, 1_000_000 * (args.prompt_cache_mb or DEFAULT_MB))
