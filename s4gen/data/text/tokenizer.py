"""Text <-> tokens: words, bytes, and what all tokenisers have in common.

Every token stands for bytes that do not depend on its neighbours, so decoding is joining, and text can be streamed.
A tokeniser is a value: `to_json` is all there is to it, and equal JSON means equal tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

from s4gen.errors import UserError

FORMAT = 1
"""Of the JSON; a reader refuses what is newer."""

EOS, UNK = "<eos>", "<unk>"
KINDS = ("word", "bpe", "bytes")
"""Those that can be made of a text; one of "numbers" comes with imported weights."""


class Tokenizer(ABC):
    """What a language model needs to know of text."""

    kind: ClassVar[str]
    """One of `KINDS`."""
    pieces: Sequence[bytes]
    """What each token writes."""
    eos: int | None
    """The token behind which a text starts: the end of a line for words, the end of a document for the others."""
    ends_texts: ClassVar[bool] = True
    """Whether `eos` is the end of a document, so that a text that is drawn ends there."""

    @property
    def vocab(self) -> int:
        """Number of tokens; they are 0 to vocab - 1."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; no end is added to it.

        Raises:
            UserError: it holds half a surrogate pair, which is no character. (On a command line, bytes that are not
                UTF-8 arrive in this form.)
        """
        try:
            return self.encode_bytes(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text is not valid Unicode: character {error.start} is half a surrogate pair; give it as UTF-8"
            ) from error

    @abstractmethod
    def encode_bytes(self, data: bytes) -> list[int]:
        """The tokens of whole lines, which are UTF-8 unless the kind is "bytes" (else UnicodeDecodeError)."""

    @abstractmethod
    def ending(self, last: bytes) -> list[int]:
        """The tokens that end a document, of which `last` is the last part."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text that tokens write; U+FFFD stands for bytes that are not UTF-8."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", "replace")

    @abstractmethod
    def _fields(self) -> dict[str, Any]:
        """What `from_json` needs besides the kind."""

    def to_json(self) -> str:
        """Everything, as one JSON object; `from_json` is the inverse."""
        return json.dumps({"format": FORMAT, "kind": self.kind, **self._fields()}, ensure_ascii=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `to_json` in hexadecimal: equal where two tokenisers are."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()


class ByteTokenizer(Tokenizer):
    """A token per byte, whatever the bytes are, and `<eos>` after each document."""

    kind = "bytes"

    def __init__(self, eos: bool = True) -> None:
        self.pieces = [bytes([value]) for value in range(256)] + [b""] * eos
        self.eos = 256 if eos else None

    def encode_bytes(self, data: bytes) -> list[int]:
        return list(data)

    def ending(self, last: bytes) -> list[int]:
        return [] if self.eos is None else [self.eos]

    def _fields(self) -> dict[str, Any]:
        return {"eos": self.eos is not None}


class WordTokenizer(Tokenizer):
    """A token per word between white space, and `<eos>` for the end of each line: the WikiText convention.

    Words that are not in the vocabulary are `<unk>`; so is a literal `<eos>`, because only a line's end is one. Text is
    written as WikiText is: a space before every word, a space before every line's end. Files of that form come back
    byte for byte; in others, white space comes back in that form.
    """

    kind = "word"
    ends_texts = False

    def __init__(self, words: Sequence[str]) -> None:
        """words: distinct, `<eos>` first, `<unk>` among them."""
        self.words = words
        self.eos = 0
        self.pieces = [b" \n"] + [f" {word}".encode() for word in words[1:]]
        self._index = {word: index for index, word in enumerate(words)}
        self._unk = self._index[UNK]
        self._index[EOS] = self._unk

    @classmethod
    def build(cls, texts: Iterable[str], vocab_size: int | None = None) -> WordTokenizer:
        """The words of a corpus, the most frequent first (so that cutoffs make sense), equals in the order of their
        characters; `<eos>` is number 0. With `vocab_size`, the rarest are left out until that many tokens remain.

        Raises:
            UserError: `vocab_size` has no room for `<eos>` and `<unk>`.
        """
        if vocab_size is not None and vocab_size < 2:
            raise UserError(f"a vocabulary of {vocab_size} words: expected at least 2, {EOS} and {UNK}")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        unknown = counts.pop(UNK, 0) + counts.pop(EOS, 0)

        def rank(word: str) -> tuple[int, str]:
            return -counts[word], word

        ordered = sorted(counts, key=rank)
        kept = ordered if vocab_size is None else ordered[: vocab_size - 2]
        counts[UNK] = unknown + sum(counts[word] for word in ordered[len(kept) :])
        return cls([EOS, *sorted([*kept, UNK], key=rank)])

    def encode_bytes(self, data: bytes) -> list[int]:
        index, unk = self._index, self._unk
        first, *others = data.decode("utf-8").split("\n")
        tokens = [index.get(word, unk) for word in first.split()]
        for line in others:
            tokens.append(0)
            tokens.extend([index.get(word, unk) for word in line.split()])
        return tokens

    def ending(self, last: bytes) -> list[int]:
        """A last line without a line feed is a line, too."""
        return [0] if last and not last.endswith(b"\n") else []

    def _fields(self) -> dict[str, Any]:
        return {"words": list(self.words)}


def from_json(text: str, where: str = "tokenizer.json") -> Tokenizer:
    """The tokeniser that `to_json` wrote; `where` is what messages call it.

    Raises:
        UserError: it is no such JSON, or of a newer format.
    """
    try:
        fields = json.loads(text)
        if fields["format"] > FORMAT:
            raise UserError(f"{where} has format {fields['format']}, expected at most {FORMAT}: use a newer s4gen")
        return _from_fields(fields)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is damaged or no tokeniser of s4gen ({type(error).__name__}: {error}): "
            "make it again from the text"
        ) from error


def _from_fields(fields: dict[str, Any]) -> Tokenizer:
    kind = fields["kind"]
    if kind == "word":
        words = [str(word) for word in fields["words"]]
        if words[:1] != [EOS] or len(set(words)) < len(words):
            raise ValueError(f"words must be distinct, {EOS} the first")
        return WordTokenizer(words)
    if kind == "bytes":
        return ByteTokenizer(bool(fields["eos"]))
    if kind == "bpe":
        from s4gen.data.text.bpe import BPETokenizer

        return BPETokenizer(fields["tokenizer"])
    if kind == "numbers":
        from s4gen.data.text.numbers import NumberTokenizer

        return NumberTokenizer(int(fields["vocab"]), int(fields["eos"]))
    raise ValueError(f"the kind is {kind!r}, expected one of {', '.join(KINDS)}")


class StreamDecoder:
    """Tokens to text as they come. A character is given out when its last byte is there, never in halves.

    What `feed` and then `finish` return is, joined, `decode` of all tokens: bytes that cannot be UTF-8 any more become
    U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that is complete with this token; often empty for bytes."""
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        """What was held back, as U+FFFD; the decoder can be used for another text."""
        return self._decoder.decode(b"", final=True)
