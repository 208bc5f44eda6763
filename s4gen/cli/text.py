"""Text at the command line: a data set in the tokens of a model, and what the verbs do for text alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s4gen.cli.dataset import open_text
from s4gen.config.names import WRITTEN_TEXTS

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.part import Part
    from s4gen.checkpoint import Checkpoint
    from s4gen.cli.evaluate_common import Outcome, Scoring, Shown
    from s4gen.cli.score_common import Reference, Result
    from s4gen.models.density import DensityModel

SUFFIXES: tuple[str, ...] = WRITTEN_TEXTS
EXPECTED_NAME = "texts are written as .txt or .jsonl; use a name that ends in one of these"
NOUN = "sequence"
SHOWN: dict[str, type] = {
    "protocol": str,
    **dict.fromkeys(("length", "n_tokens", "tokens", "words", "text_bytes"), int),
}
"""Fields that a part of scores of this kind has beside the fields of all kinds, with their types."""
DRAWN_TOKENS = 200
"""Tokens of each text that training shows."""


def sample(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Write or continue texts."""
    from s4gen.cli import sample_text

    return sample_text.run(args, checkpoint)


def scoring(args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
    """Prepare to measure the perplexity of a text."""
    from s4gen.cli import evaluate_text

    return evaluate_text.scoring(args, checkpoint)


def outcome(shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
    """Return the perplexity of a text."""
    from s4gen.cli import evaluate_text

    return evaluate_text.outcome(shown, arrays, seconds)


def score_files(
    args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
) -> tuple[Iterator[Result], str | None]:
    """Return what each of these texts cost."""
    from s4gen.cli import score_text

    return score_text.score_files(args, checkpoint, files)


def reference(args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
    """Return what texts are compared with."""
    from s4gen.cli import score_text

    return score_text.reference(args, checkpoint)


def merge_samples(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Put parts of samples together."""
    from s4gen.cli import sample_text

    return sample_text.merge(args, parts)


def sequences_to_compare(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the first tokens of the test split, in sequences of the model's length; a short text is one sequence."""
    import numpy as np
    import torch

    text = open_text(checkpoint, dataset, "test")
    length = min(checkpoint.config.layout.length, len(text))
    n = min(n, len(text) // length)
    return torch.from_numpy(text.tokens[: n * length].astype(np.int64)).view(n, length), None


def extra_facts(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return the kind of the tokeniser and its number of tokens."""
    tokenizer = checkpoint.tokenizer()
    return {"tokenizer": {"kind": tokenizer.kind, "vocab": tokenizer.vocab}}


def draw(model: DensityModel, n: int, seed: int) -> Tensor:
    """Draw n texts from their start."""
    import torch

    from s4gen.sampling.convert import convert
    from s4gen.sampling.generate import complete

    nothing = torch.empty(0, dtype=torch.int64)
    return torch.stack(complete(convert(model), [nothing] * n, seed=seed, max_tokens=DRAWN_TOKENS))
