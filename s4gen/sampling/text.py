"""Texts as they are written: continuations of prompts, decoded token by token, ended by stop strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s4gen.config import ModelConfig, TextLayout
from s4gen.data.text import StreamDecoder, Tokenizer
from s4gen.errors import UserError
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import make_engine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompts import checked_prompts, read_prompts


@dataclass
class Text:
    """One continuation, complete once `ended` says why."""

    number: int
    """Of the sequence: with the seed, it fixes the random numbers."""
    prompt: Tensor
    """int64 (P,), on the CPU."""
    tokens: list[int] = field(default_factory=list)
    """What was drawn, a stop string included."""
    text: str = ""
    """What was written, without the prompt; a stop string and what follows it are left out."""
    ended: str = ""
    """length, stop (a stop string) or eos (the end of a document)."""


class Writer:
    """Turns the tokens of one text into pieces to show: whole characters, and nothing of a stop string.

    A piece is held back as long as it may be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder, self._stop, self._held = StreamDecoder(tokenizer), stop, ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """What can be shown with this token; nothing more once `stopped`."""
        return self._show(self._decoder.feed(token))

    def finish(self) -> str:
        """What was held back."""
        shown = self._show(self._decoder.finish())
        shown, self._held = shown + self._held, ""
        return shown

    def _show(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    return next(n for n in range(min(len(text), len(stop)), -1, -1) if text.endswith(stop[:n]))


def write(
    recurrent: RecurrentModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    seed: int,
    max_tokens: int,
    stop: Sequence[str] = (),
    filters: Filters = KEEP_ALL,
    engine: str = "auto",
    batch_size: int = 64,
) -> Iterator[tuple[Text, str]]:
    """Continue every prompt; the texts come with each piece that can be shown of them, and with "" when one has ended.

    Texts of a batch grow side by side. Each ends after `max_tokens`, at a stop string, or, unless the tokeniser's
    `<eos>` is the end of a line, at `<eos>`. An empty prompt means the start of a text, behind `<eos>`.

    Args:
        filters: those with a repetition penalty run in the eager engine.
        engine: the name of one.

    Raises:
        UserError: a setting out of range, or a prompt that is no text.
    """
    if "" in stop:
        raise UserError("a stop string is empty, so nothing would be written; give some text")
    encoded = [torch.tensor(tokenizer.encode(prompt), dtype=torch.int64) for prompt in prompts]
    runner = make_engine(engine, recurrent, filters, len(prompts) * max_tokens)
    end = tokenizer.eos if tokenizer.ends_texts else None

    def pieces() -> Iterator[tuple[Text, str]]:
        for members in _batches(encoded, batch_size, recurrent.config.model):
            texts = [Text(number, encoded[number]) for number in members]
            checked = checked_prompts(recurrent, [text.prompt for text in texts])
            start = read_prompts(recurrent, checked, runner.filters)
            generation = Generation(recurrent, runner, seed=seed, sequences=members, start=start)
            yield from _written(generation, texts, [Writer(tokenizer, stop) for _ in texts], max_tokens, end)

    return pieces()  # once the engine is made: that may take longer than to write


def _batches(prompts: Sequence[Tensor], size: int, model: ModelConfig) -> list[list[int]]:
    """Numbers of prompts that are read together: attention takes rows of one length."""
    groups = [list(range(len(prompts)))]
    if not model.traits.own_lengths:
        groups = [[i for i in groups[0] if len(prompts[i]) == n] for n in sorted({len(prompt) for prompt in prompts})]
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def _written(
    generation: Generation, texts: list[Text], writers: list[Writer], max_tokens: int, end: int | None
) -> Iterator[tuple[Text, str]]:
    """The tokens of a generation as pieces; rows that have ended are left out as soon as half of them have."""
    rows = list(range(len(texts)))  # the text of each row
    for drawn in generation.stream(max_tokens):
        for i, token in zip(rows, drawn.tolist(), strict=True):
            text, writer = texts[i], writers[i]
            if text.ended:
                continue
            text.tokens.append(token)
            piece = writer.feed(token)
            text.ended = "stop" if writer.stopped else "eos" if token == end else ""
            if not text.ended and len(text.tokens) == max_tokens:
                text.ended = "length"
            if text.ended:
                piece += writer.finish()
                text.ended = "stop" if writer.stopped else text.ended
            text.text += piece
            if piece:
                yield text, piece
            if text.ended:
                yield text, ""
        going = [row for row, i in enumerate(rows) if not texts[i].ended]
        if not going:
            return
        if 2 * len(going) <= len(rows):
            generation.keep(going)
            rows = [rows[row] for row in going]


@torch.no_grad()
def log_probabilities(recurrent: RecurrentModel, text: Text) -> list[float]:
    """log p of every drawn token under the model itself, without temperature, filters or penalty, in nats."""
    whole = torch.cat([text.prompt, torch.tensor(text.tokens, dtype=torch.int64)])[None].to(recurrent.device)
    layout, known = recurrent.config.layout, len(text.prompt)
    if known and isinstance(layout, TextLayout) and layout.bare_prompts:
        nats = recurrent.source.score(whole[:, :-1], whole[:, 1:])[0][0, known - 1 :]
    else:
        nats = recurrent.source.nats(whole)[0, known:]
    return [-value for value in nats.tolist()]
