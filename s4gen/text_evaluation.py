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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4gen.data.text import TokenFile, one_stream, windows
from s4gen.errors import UserError
from s4gen.memory import keep_freed_memory
from s4gen.progress import progress_bar

PROTOCOLS = ("stream", "windows")

Score = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]
"""x, y int64 (B, L), state (None: at the start) -> -log p(y_t | state, x up to t) in nats (B, L), state after x.
`DensityModel.score` is one."""


@dataclass(frozen=True)
class TextEvaluation:
    """What a text costs under a model."""

    word_perplexity: float
    perplexity: float
    """Per token."""
    bits_per_byte: float
    nats: float
    """Mean of -log p over the tokens."""
    protocol: str
    """One of `PROTOCOLS`."""
    length: int
    """Tokens of a chunk, or of a window."""
    n_tokens: int
    """Tokens scored, each once."""
    n_words: int
    """Words that they stand for. Of a part of a text, by the tokens per word of the whole; so are its bytes."""
    seconds: float
    """Wall time."""


def perplexities(nats: float, text: TokenFile) -> dict[str, float]:
    """A mean of `nats` per token of this text, in the other units."""
    n = len(text)
    return {
        "word_perplexity": _exp(nats * n / text.words),
        "perplexity": _exp(nats),
        "bits_per_byte": nats * n / text.text_bytes / math.log(2),
        "nats": nats,
    }


def evaluate_stream(
    score: Score, text: TokenFile, start: int, chunk: int, limit: int | None = None, progress: bool = False
) -> TextEvaluation:
    """The text, or its first `limit` tokens, as one stream behind the token `start`, `chunk` tokens at a time.

    Raises:
        UserError: `chunk` is less than 1.
    """
    _at_least_one("chunks", chunk)
    pairs = one_stream(text.tokens[:limit], start, chunk)
    return _evaluate(score, pairs, True, "stream", text, chunk, limit, progress)


def evaluate_windows(
    score: Score,
    text: TokenFile,
    start: int,
    length: int,
    rows: int = 8,
    limit: int | None = None,
    progress: bool = False,
) -> TextEvaluation:
    """The text, or its first `limit` tokens, in windows of `length` tokens, `rows` of them at a time.

    Raises:
        UserError: `length` is less than 1.
    """
    _at_least_one("windows", length)
    pairs = windows(text.tokens[:limit], start, length, rows)
    return _evaluate(score, pairs, False, "windows", text, length, limit, progress)


def _evaluate(
    score: Score,
    pairs: Iterator[tuple[Tensor, Tensor]],
    carry: bool,
    protocol: str,
    text: TokenFile,
    length: int,
    limit: int | None,
    progress: bool,
) -> TextEvaluation:
    keep_freed_memory()
    began = time.perf_counter()
    wanted = len(text.tokens[:limit])
    total, done, state = 0.0, 0, None
    with torch.inference_mode(), progress_bar(wanted, "tok", progress, desc=f"scoring ({protocol})") as bar:
        for x, y in pairs:
            nats, after = score(x, y, state)
            state = after if carry else None
            total, done = total + nats.double().sum().item(), done + y.numel()
            bar.set_postfix_str(f"perplexity {_exp(total / done):.2f}")
            bar.update(y.numel())
    return TextEvaluation(
        **perplexities(total / done, text),
        protocol=protocol,
        length=length,
        n_tokens=done,
        n_words=round(text.words * done / len(text)),
        seconds=time.perf_counter() - began,
    )


def _exp(x: float) -> float:
    """Infinite where it is too large for a float, as of a model that has diverged."""
    return math.exp(x) if x < 700 else math.inf


def _at_least_one(what: str, length: int) -> None:
    if length < 1:
        raise UserError(f"{what} of {length} tokens: expected at least 1")
