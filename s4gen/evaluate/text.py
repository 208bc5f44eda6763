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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from s4gen.bulk.dealing import Batches
from s4gen.data.text import TokenFile, window_batches, window_pair
from s4gen.errors import UserError
from s4gen.evaluate.scorers import Nats, Scorer, summed
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


class Counts(NamedTuple):
    """How much a whole text holds."""

    tokens: int
    words: int
    """`<eos>` of lines included."""
    text_bytes: int

    @classmethod
    def of(cls, text: TokenFile) -> Counts:
        """Return those of a text."""
        return cls(len(text), text.words, text.text_bytes)


def perplexities(nats: float, counts: Counts) -> dict[str, float]:
    """Convert a mean of `nats` per token of this text into the other units, by the names in `TextEvaluation`."""
    n = counts.tokens
    return {
        "word_perplexity": _exp(nats * n / counts.words),
        "perplexity": _exp(nats),
        "bits_per_byte": nats * n / counts.text_bytes / math.log(2),
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
    return _evaluate(score, Windows(text.tokens[:limit], start, chunk, 1, stream=True), text, progress)


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
    return _evaluate(score, Windows(text.tokens[:limit], start, length, rows), text, progress)


@dataclass(frozen=True, eq=False)
class Windows:
    """The tokens of a text in windows that are scored one batch after another; of a stream, its chunks."""

    tokens: NDArray[Any]
    """(n,), all that is to be scored."""
    start: int
    """The token that stands before the first one."""
    length: int
    """Tokens of a window or a chunk."""
    rows: int
    """Windows side by side; 1 for a stream."""
    stream: bool = False
    """Whether each chunk goes on with the state of the one before it."""

    @property
    def protocol(self) -> str:
        """One of `PROTOCOLS`."""
        return "stream" if self.stream else "windows"

    @property
    def batches(self) -> Batches:
        """The numbers of the windows that are scored together."""
        return window_batches(len(self.tokens), self.length, self.rows)

    @torch.inference_mode()
    def nats(self, score: Scorer, numbers: range, state: Any = None) -> tuple[Nats, Any]:
        """Return what the windows of these numbers cost, in nats, float64 (rows,), and the state after a chunk."""
        tokens, target = window_pair(self.tokens, self.start, self.length, numbers)
        nats, after = score(tokens, target, state)
        return summed(nats), after if self.stream else None


def _evaluate(score: Scorer, windows: Windows, text: TokenFile, progress: bool) -> TextEvaluation:
    """Score all windows, and convert what they cost."""
    keep_freed_memory()
    began = time.perf_counter()
    n, found, state, total = len(windows.tokens), [], None, 0.0
    with progress_bar(n, "tok", progress, desc=f"scoring ({windows.protocol})") as bar:
        for batch in windows.batches:
            nats, state = windows.nats(score, batch, state)
            found.append(nats)
            total, done = total + float(nats.sum()), min(n, batch.stop * windows.length)
            bar.update(done - batch.start * windows.length)
            bar.set_postfix_str(f"perplexity {_exp(total / done):.2f}")
    seconds = time.perf_counter() - began
    return text_evaluation(np.concatenate(found), n, Counts.of(text), windows.protocol, windows.length, seconds)


def text_evaluation(nats: Nats, n: int, counts: Counts, protocol: str, length: int, seconds: float) -> TextEvaluation:
    """Convert what the windows of n tokens cost, nats float64 (windows,), into all units."""
    return TextEvaluation(
        **perplexities(math.fsum(nats.tolist()) / n, counts),
        protocol=protocol,
        length=length,
        n_tokens=n,
        n_words=round(counts.words * n / counts.tokens),
        seconds=seconds,
    )


def _exp(x: float) -> float:
    """Return e^x, or infinity where that is too large for a float, as for a model that has diverged."""
    return math.exp(x) if x < 700 else math.inf


def _at_least_one(what: str, length: int) -> None:
    if length < 1:
        raise UserError(f"{what} of {length} tokens: expected at least 1")
