"""Make a tokeniser of a text by its name, or read one back from its JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from s4gen.config.names import TOKENIZERS
from s4gen.data.text.bpe import BPETokenizer
from s4gen.data.text.corpus import Corpus
from s4gen.data.text.plain import EOS, UNK, ByteTokenizer, NumberTokenizer, WordTokenizer
from s4gen.data.text.tokenizer import FORMAT, Tokenizer
from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import LARGE

MOST_TOKENS = 1 << 24
"""The largest vocabulary that is read: more than any text has, and little enough to be held."""

_HEAD = expected.table(
    {"format": expected.whole(1), "kind": expected.one_of([*TOKENIZERS, "numbers"])},
    others=expected.anything,
)
_ALSO = {"format": expected.anything, "kind": expected.anything}
_WORDS = expected.table({"words": expected.items(expected.text(), 2, MOST_TOKENS)}, _ALSO)
_BPE = expected.table({"tokenizer": expected.mapping(expected.anything)}, _ALSO)
_BYTES = expected.table({"eos": expected.flag}, _ALSO)
_NUMBERS = expected.table({"vocab": expected.whole(1, MOST_TOKENS), "eos": expected.whole()}, _ALSO)
"""These tables check the fields of the file of each kind."""


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


def from_json(text: str | bytes, where: str = "tokenizer.json") -> Tokenizer:
    """Return the tokeniser that `Tokenizer.to_json` wrote, from a string or UTF-8; messages call the JSON `where`.

    Raises:
        UserError: it is no such JSON, or of a newer format.
    """
    try:
        fields = _HEAD(json_value(text, LARGE), "")
        if fields["format"] > FORMAT:
            raise UserError(f"{where} has format {fields['format']}, expected at most {FORMAT}: use a newer s4gen")
        return READERS[fields["kind"]](fields)
    except ValueError as error:
        raise UserError(
            f"{where} is damaged or no tokeniser of s4gen ({shortened(reason(error))}): make it again from the text"
        ) from error


def _words(fields: dict[str, Any]) -> WordTokenizer:
    words = _WORDS(fields, "")["words"]
    # The model's start token is number 0, and a word with two numbers would not come back.
    if words[0] != EOS or UNK not in words or len(set(words)) < len(words):
        raise ValueError(f"words must be distinct, {EOS} the first and {UNK} among them")
    return WordTokenizer(words)


def _numbers(fields: dict[str, Any]) -> NumberTokenizer:
    found = _NUMBERS(fields, "")
    if found["eos"] >= found["vocab"]:
        raise ValueError(f"eos = {found['eos']}: expected a token below {found['vocab']}")
    return NumberTokenizer(found["vocab"], found["eos"])


READERS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "word": _words,
    "bpe": lambda fields: BPETokenizer(_BPE(fields, "")["tokenizer"]),
    "bytes": lambda fields: ByteTokenizer(_BYTES(fields, "")["eos"]),
    "numbers": _numbers,
}
"""From the fields of the JSON to the tokeniser: those of `TOKENIZERS`, and the numbers of imported weights."""
