"""The tokenisers by their names: make one of a text, or read one back from its JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from s4gen.config.names import TOKENIZERS
from s4gen.data.text.bpe import BPETokenizer
from s4gen.data.text.corpus import Corpus
from s4gen.data.text.plain import EOS, UNK, ByteTokenizer, NumberTokenizer, WordTokenizer
from s4gen.data.text.tokenizer import FORMAT, Tokenizer
from s4gen.errors import UserError, shortened
from s4gen.files.expected import flag, items, text, whole
from s4gen.files.parsing import json_value
from s4gen.files.reading import LARGE

LARGEST_VOCAB = 1 << 24
"""Numbers that a vocabulary of numbers has at most; each of them takes about a hundred bytes of memory."""


def build_tokenizer(kind: str, corpus: Corpus, vocab_size: int | None = None, progress: bool = False) -> Tokenizer:
    """Make a tokeniser of one of the kinds `TOKENIZERS` from a corpus, which is its training split.

    `vocab_size` counts `<eos>` and `<unk>`. "bpe" needs it; "word" has all words without it; "bytes" has 257 tokens.

    Raises:
        UserError: there is no such kind; it cannot have this size; the text is empty, damaged, binary or not UTF-8.
    """
    if kind == "word":
        return WordTokenizer.build(corpus.texts(progress), vocab_size)
    if kind == "bytes" and vocab_size in (None, 257):
        return ByteTokenizer()
    if kind == "bpe" and vocab_size is not None:
        return BPETokenizer.train(corpus.texts(progress), vocab_size)
    if kind not in TOKENIZERS:
        raise UserError(f"no tokeniser called {kind!r}: expected one of {', '.join(TOKENIZERS)}")
    wanted = "257, or none given" if kind == "bytes" else "a number, 8192 for example"
    raise UserError(f"the vocabulary of the tokeniser {kind!r} is {vocab_size}: expected {wanted}")


def from_json(content: str, where: str = "tokenizer.json") -> Tokenizer:
    """Return the tokeniser that `Tokenizer.to_json` wrote; messages call the JSON `where`.

    Raises:
        UserError: it is no such JSON, or of a newer format.
    """
    try:
        fields = json_value(content, LARGE)
        if whole(1)(fields["format"], "format") > FORMAT:
            raise UserError(f"{where} has format {fields['format']}, expected at most {FORMAT}: use a newer s4gen")
        kind = fields["kind"]
        if not isinstance(kind, str) or kind not in READERS:
            raise ValueError(f"the kind is {kind!r}, expected one of {', '.join(TOKENIZERS)}")
        return READERS[kind](fields)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is damaged or no tokeniser of s4gen ({type(error).__name__}: {shortened(str(error))}): "
            "make it again from the text"
        ) from error


def _words(fields: dict[str, Any]) -> WordTokenizer:
    words: list[str] = items(text())(fields["words"], "words")
    # The model's start token is number 0, and a word with two numbers would not come back.
    if words[:1] != [EOS] or UNK not in words or len(set(words)) < len(words):
        raise ValueError(f"words must be distinct, {EOS} the first and {UNK} among them")
    return WordTokenizer(words)


def _numbers(fields: dict[str, Any]) -> NumberTokenizer:
    vocab = whole(1, LARGEST_VOCAB)(fields["vocab"], "vocab")
    return NumberTokenizer(vocab, whole(0, vocab - 1)(fields["eos"], "eos"))


READERS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "word": _words,
    "bpe": lambda fields: BPETokenizer(fields["tokenizer"]),
    "bytes": lambda fields: ByteTokenizer(flag(fields["eos"], "eos")),
    "numbers": _numbers,
}
"""From the fields of the JSON to the tokeniser: those of `TOKENIZERS`, and the numbers of imported weights."""
