"""`s4gen score` of texts, one after another, each as one stream from its start."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.dataset import open_text
from s4gen.cli.score_common import (
    Reference,
    Result,
    Scored,
    as_for_eval,
    costs_of,
    each_file,
    map_paths,
    reference_costs,
)
from s4gen.errors import UserError, printable
from s4gen.files.folders import user_path
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint
    from s4gen.data.text import Tokenizer
    from s4gen.evaluate.scorers import Nats

CHUNK = 8192
"""Tokens of a text that are scored at a time."""
HEAD = 4096
"""Tokens from the start of a text, at most, by which it is compared with others."""
SHOWN = 100_000
"""Tokens of a text that a page shows at most: a browser takes long over more words than that."""


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return the scores of texts, in order, as they are computed, and the name of the engine if there is one.

    Raises:
        UserError: the arguments and the model do not go together.
    """
    import numpy as np
    import torch

    from s4gen.evaluate.maps import shown_words, text_map
    from s4gen.files.atomic import write_file_atomic

    tokenizer = checkpoint.tokenizer()
    costs, engine = costs_of(args, checkpoint, CHUNK, 1)
    places = None if args.map is None else map_paths(args.map, files, ".html")

    def score(number: int, file: str) -> Scored:
        tokens: list[int] = []
        path, sizes = user_path(file), [0]
        most = 0 if places is None else SHOWN

        def blocks() -> Iterator[torch.Tensor]:
            for found, size in token_blocks(path, tokenizer):
                sizes[0] += size
                tokens.extend(found[: max(0, most - len(tokens))])
                if found:
                    yield torch.tensor(found, dtype=torch.int64)[None]

        kept, parts, length = [np.zeros(0)], [], 0
        for nats in costs.of(blocks()):
            parts.append(math.fsum(nats[0].tolist()))
            if length < max(HEAD, most):
                kept.append(nats[0, : max(HEAD, most) - length])
            length += nats.shape[1]
        if not length:
            raise UserError(f"{path} is empty: expected some text")
        total, first = math.fsum(parts), np.concatenate(kept)
        size = sizes[0]
        per_byte = total / math.log(2) / size
        extra: dict[str, Any] = {"bytes": size, "bits_per_byte": per_byte}
        if places is not None and math.isfinite(total):
            extra["map"] = str(places[number])
            note = f"the first {SHOWN:,} of {length:,} tokens" if length > SHOWN else ""
            summary = f"{total / math.log(2):,.1f} bits, {per_byte:.4f} bits per byte, {plural(length, 'token')}"
            words = [*shown_words(tokenizer.pieces, tokens, first[: len(tokens)])]
            page = text_map(printable(str(file)), words, f"{summary} under {args.checkpoint}", note)
            write_file_atomic(extra["map"], page.encode("utf-8", "replace"))
        return Scored(file, total, length, first[:HEAD], extra)

    return each_file(files, score), engine


def token_blocks(path: Path, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """Yield the tokens of a text file, ends of documents included, and their bytes, block by block.

    Plain text or JSON Lines, gzipped or not, as in a data set.

    Raises:
        UserError: it is missing, damaged, or no text.
    """
    from s4gen.data.text.corpus import checked_text
    from s4gen.data.text.reading import read_blocks

    for block in read_blocks(path):
        if tokenizer.kind != "bytes":  # which takes any file
            checked_text(block, path)
        yield tokenizer.encode_bytes(block.data) + (tokenizer.ending(block.data) if block.ends else []), len(block.data)


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Prepare to compare texts with windows of a split, of as many tokens as are compared, each from a fresh state.

    They are the windows of `s4gen eval`, each of which is fed the token before it, as a text is fed that of its start.

    Raises:
        UserError: there is no such data, or it is not of the model's kind.
    """
    from s4gen.cli.evaluate_text import scoring
    from s4gen.evaluate.scores import percentile

    there = len(open_text(checkpoint, args.against, args.split))

    @functools.cache
    def windows(length: int) -> Nats:
        n = max(1, min(args.limit, there // length))
        rows = max(1, min(args.batch, CHUNK // length))
        found = scoring(as_for_eval(args, windows=length, limit=n * length, batch=rows), checkpoint)
        return reference_costs(found)["nats"]

    def compared(scored: Scored) -> float:
        # A power of two, so that texts of many lengths are compared with few sets of windows.
        length = 1 << (min(len(scored.head), there).bit_length() - 1)
        return percentile(math.fsum(scored.head[:length].tolist()), windows(length))

    return Reference(args.limit, compared)
