"""Writing texts: prompts are continued token by token, decoded as they grow, and ended by stop strings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s4gen.bulk.dealing import WHOLE, Batches, Piece, Shard, pieces
from s4gen.config import ModelConfig, TextLayout
from s4gen.data.text import StreamDecoder, Tokenizer
from s4gen.errors import UserError
from s4gen.evaluate.scorers import fed
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompt_cache import PromptCache
from s4gen.sampling.prompts import CHUNK, checked_prompts, read_prompts


@dataclass
class Text:
    """One continuation of a prompt. It is complete once `ended` says why it ended."""

    number: int
    """Number of the sequence, which together with the seed fixes its random numbers."""
    prompt: Tensor
    """The prompt's tokens, int64 (P,) on the CPU."""
    tokens: list[int] = field(default_factory=list)
    """All tokens drawn so far, those of a stop string included."""
    text: str = ""
    """The text written so far, without the prompt, and without a stop string and what follows it."""
    ended: str = ""
    """Why the text ended: length, stop (at a stop string) or eos (at the end of a document). Empty while it grows."""


class Writer:
    """Turns the tokens of one text into pieces to show, which are whole characters and no part of a stop string.

    Characters are held back as long as they may be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder, self._stop, self._held = StreamDecoder(tokenizer), stop, ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """Take the next token; return the text that can now be shown, which is empty once `stopped`."""
        return self._show(self._decoder.feed(token))

    def finish(self) -> str:
        """Return the text that is still held back, because no more tokens follow."""
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
            return text[: min(found)]  # the stop string that comes first ends the text, whichever was named first
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest ending of the text that is a beginning of the stop string."""
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
    prompt_cache: PromptCache | None = None,
) -> Iterator[tuple[Text, str]]:
    """Continue every prompt; yield a text with each new piece of it that can be shown, and with "" when it has ended.

    Texts of a batch grow side by side. Each ends after `max_tokens` tokens, at a stop string, or at `<eos>`, unless in
    this tokeniser `<eos>` ends every line. An empty prompt is the start of a text, behind `<eos>`.

    Args:
        recurrent: the converted model.
        tokenizer: the tokeniser that the model was trained with.
        prompts: the texts to be continued.
        seed: 0 to 2^64 - 1.
        max_tokens: the most tokens to draw for a text.
        stop: strings that end a text; none may be empty.
        filters: temperature and the like. With a repetition penalty the eager engine is used, whatever `engine` says.
        engine: the name of an engine.
        batch_size: the most texts that grow side by side.
        prompt_cache: where prompts that were read before are found, and new ones are kept.

    Raises:
        UserError: a setting is out of range, or a prompt is no text.
    """
    request = TextRequest(
        recurrent,
        make_engine(engine, recurrent, filters, len(prompts) * max_tokens),
        tokenizer,
        prompts,
        seed,
        max_tokens,
        stop,
        batch_size,
        prompt_cache,
    )
    # The engine is made before this returns, not with the first piece: a caller who times the writing does not time it.
    return (found for piece in request.pieces() for found in request.write(piece))


class TextRequest:
    """Texts to be written in an engine: the prompts, encoded, in the order and the batches in which they are continued.

    The mixers that need rows of one length take the prompts in the order of their lengths. Row k of that order is text
    `order[k]`.
    """

    def __init__(
        self,
        recurrent: RecurrentModel,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        seed: int,
        max_tokens: int,
        stop: Sequence[str],
        batch_size: int,
        prompt_cache: PromptCache | None = None,
    ) -> None:
        """Encode the prompts; the arguments are those of `write`, but for the engine, which `make_engine` has made.

        Raises:
            UserError: a stop string is empty, or a prompt is no text.
        """
        if "" in stop:
            raise UserError("a stop string is empty, so nothing would be written; give some text")
        known = {prompt: torch.tensor(tokenizer.encode(prompt), dtype=torch.int64) for prompt in dict.fromkeys(prompts)}
        self.encoded = [known[prompt] for prompt in prompts]
        """The tokens of each prompt, int64 (P_i,); texts with equal prompts share them."""
        self.engine, self.tokenizer, self.seed = engine, tokenizer, seed
        self._recurrent, self._max_tokens, self._stop, self._cache = recurrent, max_tokens, stop, prompt_cache
        self.order, self.batches = _batches(self.encoded, batch_size, recurrent.config.model)

    def pieces(self, shard: Shard = WHOLE) -> Iterator[Piece]:
        """Yield the rows of a shard in the batches in which they are written."""
        return pieces(self.batches, shard)

    def write(self, piece: Piece) -> Iterator[tuple[Text, str]]:
        """Write the texts of a piece, as `write` does, and those that are computed with them.

        Raises:
            UserError: a prompt does not fit the model.
        """
        # A prompt's padding is that of its batch in the whole run, so that nothing is rounded in another way.
        batch = checked_prompts(self._recurrent, [self.encoded[self.order[row]] for row in piece.batch])
        start = read_prompts(self._recurrent, batch.part(piece.within), self.engine.filters, self._cache)
        members = [self.order[row] for row in piece.computed]
        texts = [Text(number, self.encoded[number]) for number in members]
        generation = Generation(self._recurrent, self.engine, seed=self.seed, sequences=members, start=start)
        writers = [Writer(self.tokenizer, self._stop) for _ in texts]
        end = self.tokenizer.eos if self.tokenizer.ends_texts else None
        return _written(generation, texts, writers, self._max_tokens, end)


def _batches(prompts: Sequence[Tensor], size: int, model: ModelConfig) -> tuple[Sequence[int], Sequence[range]]:
    """Return the order in which prompts are read, and the batches of that order.

    Prompts of a batch have one length if the mixer needs that.
    """
    if model.traits.ragged:
        return range(len(prompts)), Batches(len(prompts), size)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches, first = [], 0
    for _, group in itertools.groupby(order, key=lambda i: len(prompts[i])):
        stop = first + len(list(group))
        batches += [range(at, min(at + size, stop)) for at in range(first, stop, size)]
        first = stop
    return order, batches


def _written(
    generation: Generation, texts: list[Text], writers: list[Writer], max_tokens: int, end: int | None
) -> Iterator[tuple[Text, str]]:
    """Yield the pieces of a generation's texts; as soon as half of the rows have ended, they are no longer computed."""
    rows = list(range(len(texts)))  # for each row of the generation, its index in `texts`
    for drawn in generation.stream(max_tokens):
        for i, token in zip(rows, drawn.tolist(), strict=True):
            text, writer = texts[i], writers[i]
            if text.ended:
                continue
            piece = grown(text, writer, token, max_tokens, end)
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


def grown(text: Text, writer: Writer, token: int, max_tokens: int, end: int | None) -> str:
    """Add a token to a text; return the piece that can now be shown. If the text has ended, its `ended` says why.

    It ends after `max_tokens` tokens, at a stop string of the writer, or with the token `end`.
    """
    text.tokens.append(token)
    piece = writer.feed(token)
    text.ended = "stop" if writer.stopped else "eos" if token == end else ""
    if not text.ended and len(text.tokens) == max_tokens:
        text.ended = "length"
    if text.ended:
        piece += writer.finish()
        # The last characters may have completed a stop string.
        text.ended = "stop" if writer.stopped else text.ended
    text.text += piece
    return piece


@torch.no_grad()
def log_probabilities(recurrent: RecurrentModel, text: Text) -> list[float]:
    """Return log p, in nats, of every drawn token under the model itself, without temperature, filters or penalty."""
    whole = torch.cat([text.prompt, torch.tensor(text.tokens, dtype=torch.int64)])[None].to(recurrent.device)
    layout, known = recurrent.config.layout, len(text.prompt)
    # A model with bare prompts was given no bos in front of its prompt, so it is scored without one, too.
    bare = bool(known) and isinstance(layout, TextLayout) and layout.bare_prompts
    before, after = (whole[:, :-1], whole[:, 1:]) if bare else (fed(whole, recurrent.bos), whole)
    nats, state = [], None
    for tokens, target in zip(before.split(CHUNK, 1), after.split(CHUNK, 1), strict=True):
        found, state = recurrent.source.score(tokens, target, state)
        nats += found[0].tolist()
    return [-value for value in nats[len(nats) - len(text.tokens) :]]
