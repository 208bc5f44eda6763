"""The rows of texts: what is drawn becomes pieces of text with what their tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from s4gen.config import TextLayout
from s4gen.data.text import Tokenizer
from s4gen.sampling.prompts import Start
from s4gen.sampling.text import Text, Writer, grown
from s4gen.serving.costs import Cost, Costs
from s4gen.serving.orders import Channel
from s4gen.serving.served import Served

OVERHEAD, BYTES_OF_A_TOKEN = 200, 100
"""Bytes, roughly, that a piece takes while it waits, and each token in it for which costs are told."""


@dataclass(frozen=True)
class Piece:
    """The piece that a few steps have added to one text."""

    number: int
    """The number of the text."""
    text: str
    """The text that can be shown now; it lags behind the tokens where these may begin a stop string."""
    tokens: list[int]
    costs: list[Cost | None]
    """The cost of each token; empty if nobody asked for it. None: a first token without <eos> before it."""
    offset: int
    """Characters of the text in front of the first of these tokens."""
    ended: str = ""
    """Why the text ended: length, stop or eos; empty while it grows."""


@dataclass(eq=False)
class TextRow:
    """One text that grows. See `orders.Row`."""

    number: int
    text: Text
    writer: Writer
    max_tokens: int
    tokenizer: Tokenizer
    _costs: Costs | None = None
    _offset: int = 0
    _likeliest: int = field(default=0)

    @property
    def left(self) -> int:
        return 0 if self.text.ended else self.max_tokens - len(self.text.tokens)

    def watch(self, model: Served, start: Start, likeliest: int) -> None:
        """Tell from now on what each token costs; the row stands at `start`."""
        start = start._replace(state=start.state._replace(seen=()))  # which only a repetition penalty needs
        self._costs, self._likeliest = Costs(model.engine, start, likeliest), likeliest

    def repeat(self, model: Served, channel: Channel) -> None:
        """Send the prompt as the first piece, with what its tokens cost if that is wanted."""
        tokens: list[int] = self.text.prompt.tolist()
        costs = [] if self._costs is None else _costs_of_prompt(model, tokens, self._likeliest)
        self._send(channel, self.tokenizer.decode(tokens), tokens, costs)

    def take(self, tokens: list[int], channel: Channel) -> int:
        end = self.tokenizer.eos if self.tokenizer.ends_texts else None
        pieces = []
        for token in tokens:
            pieces.append(grown(self.text, self.writer, token, self.max_tokens, end))
            if self.text.ended:
                break
        used = tokens[: len(pieces)]
        costs: list[Cost | None] = [] if self._costs is None else [*self._costs.of(used)]
        self._send(channel, "".join(pieces), used, costs)
        return len(used)

    def _send(self, channel: Channel, text: str, tokens: list[int], costs: list[Cost | None]) -> None:
        size = OVERHEAD + len(text) + len(costs) * BYTES_OF_A_TOKEN * (1 + self._likeliest)
        channel.post(Piece(self.number, text, tokens, costs, self._offset, self.text.ended), size)
        self._offset += sum(len(self.tokenizer.decode([token])) for token in tokens)


def _costs_of_prompt(model: Served, tokens: list[int], likeliest: int) -> list[Cost | None]:
    """Return what the tokens of a prompt cost, behind bos if the model was trained with one."""
    layout = model.config.layout
    bare = isinstance(layout, TextLayout) and layout.bare_prompts
    if not tokens:
        return []
    first = tokens[0] if bare else model.recurrent.bos
    device = model.recurrent.device
    start = Start(torch.tensor([first], device=device), model.recurrent.initial_state(1))
    known = Costs(model.engine, start, likeliest).of(tokens[1:] if bare else tokens)
    return [None, *known] if bare else [*known]


def logprobs_of(pieces: Sequence[Piece], tokenizer: Tokenizer) -> dict[str, list[Any]]:
    """Return the costs of the tokens of some pieces as OpenAI writes them; offsets count characters of the text."""
    tokens, offsets, logp = [], [], []
    likeliest: list[dict[str, float] | None] = []
    for piece in pieces:
        offset = piece.offset
        for token, cost in zip(piece.tokens, piece.costs, strict=True):
            written = written_by(tokenizer, token)
            tokens.append(written)
            offsets.append(offset)
            offset += len(tokenizer.decode([token]))
            logp.append(None if cost is None else cost.log_probability)
            likeliest.append(
                {written_by(tokenizer, other): value for other, value in reversed(cost.likeliest)}
                if cost is not None and cost.likeliest
                else None
            )
    return {"tokens": tokens, "text_offset": offsets, "token_logprobs": logp, "top_logprobs": likeliest}


def written_by(tokenizer: Tokenizer, token: int) -> str:
    """Return what a token writes; for a part of a character, its bytes in OpenAI's notation, `bytes:\\xe2\\x82`."""
    piece = tokenizer.pieces[token]
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
