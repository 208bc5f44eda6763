"""Perplexity of a text under a model, by two protocols.

    stream    the whole split as one sequence: every token is predicted once, from its full past. The state is carried
              from chunk to chunk, so that the length of a chunk changes nothing but speed and memory.
    windows   non-overlapping windows, each from a fresh state: the protocol of most published numbers.

Attention sees its window only, in both; so it has the full past of a token where that is shorter.

    perplexity = exp(nats / tokens),  word perplexity = exp(nats / words),  bits per byte = nats / (bytes ln 2)

where words and bytes are those of the text, with one `<eos>` for each line among the words, as in the literature; so
the last two compare models of different tokenisers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.data.text import TokenFile, one_stream, windows
from s4gen.errors import UserError
from s4gen.evaluate.scorers import Scorer
from s4gen.machine.memory import keep_freed_memory
from s4gen.showing.progress import progress_bar

PROTOCOLS = ("stream", "windows")


@dataclass(frozen=True)
class TextEvaluation:
    """The cost of a text under a model."""

    word_perplexity: float
    """exp(nats / words)."""
    perplexity: float
    """exp(nats / tokens)."""
    bits_per_byte: float
    """nats / (bytes ln 2)."""
    nats: float
    """Mean of -log p over the tokens."""
    protocol: str
    """One of `PROTOCOLS`."""
    length: int
    """Tokens of a chunk, or of a window."""
    n_tokens: int
    """Tokens scored, each once."""
    n_words: int
    """Words that they stand for. For a part of a text, words and bytes are estimated from those of the whole text per
    token."""
    seconds: float
    """Wall time."""


def perplexities(nats: float, text: TokenFile) -> dict[str, float]:
    """Convert a mean of `nats` per token of this text into the other units, by the names in `TextEvaluation`."""
    n = len(text)
    return {
        "word_perplexity": _exp(nats * n / text.words),
        "perplexity": _exp(nats),
        "bits_per_byte": nats * n / text.text_bytes / math.log(2),
        "nats": nats,
    }


def evaluate_stream(
    score: Scorer, text: TokenFile, start: int, chunk: int, limit: int | None = None, progress: bool = False
) -> TextEvaluation:
    """Score the text, or its first `limit` tokens, as one stream behind the token `start`, `chunk` tokens at a time.

    Raises:
        UserError: `chunk` is less than 1.
    """
    _at_least_one("chunks", chunk)
    pairs = one_stream(text.tokens[:limit], start, chunk)
    return _evaluate(score, pairs, True, "stream", text, chunk, limit, progress)


def evaluate_windows(
    score: Scorer,
    text: TokenFile,
    start: int,
    length: int,
    rows: int = 8,
    limit: int | None = None,
    progress: bool = False,
) -> TextEvaluation:
    """Score the text, or its first `limit` tokens, in windows of `length` tokens, `rows` of them at a time.

    Raises:
        UserError: `length` is less than 1.
    """
    _at_least_one("windows", length)
    pairs = windows(text.tokens[:limit], start, length, rows)
    return _evaluate(score, pairs, False, "windows", text, length, limit, progress)


def _evaluate(
    score: Scorer,
    pairs: Iterator[tuple[Tensor, Tensor]],
    carry: bool,
    protocol: str,
    text: TokenFile,
    length: int,
    limit: int | None,
    progress: bool,
) -> TextEvaluation:
    """Score pairs of tokens fed and targets; `carry`: each pair goes on with the state of the one before it."""
    keep_freed_memory()
    began = time.perf_counter()
    wanted = len(text.tokens[:limit])
    total, done, state = 0.0, 0, None
    with torch.inference_mode(), progress_bar(wanted, "tok", progress, desc=f"scoring ({protocol})") as bar:
        for tokens, target in pairs:
            nats, after = score(tokens, target, state)
            state = after if carry else None
            total, done = total + nats.double().sum().item(), done + target.numel()
            bar.set_postfix_str(f"perplexity {_exp(total / done):.2f}")
            bar.update(target.numel())
    return TextEvaluation(
        **perplexities(total / done, text),
        protocol=protocol,
        length=length,
        n_tokens=done,
        n_words=round(text.words * done / len(text)),
        seconds=time.perf_counter() - began,
    )


def _exp(x: float) -> float:
    """Return e^x, or infinity where that is too large for a float, as for a model that has diverged."""
    return math.exp(x) if x < 700 else math.inf


def _at_least_one(what: str, length: int) -> None:
    if length < 1:
        raise UserError(f"{what} of {length} tokens: expected at least 1")
