"""Make tokens without training: one for each word, each byte, or each written number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from s4gen.data.text.tokenizer import Tokenizer
from s4gen.errors import UserError

EOS, UNK = "<eos>", "<unk>"


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
        """Take distinct words, of which `<eos>` is the first; `<unk>` is among them."""
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
        """Return the tokens that end a text, because a last line without a line feed is a line, too."""
        return [0] if last and not last.endswith(b"\n") else []

    def _fields(self) -> dict[str, Any]:
        return {"words": list(self.words)}


class NumberTokenizer(Tokenizer):
    """A token per number between spaces: the text "3 17 0" is the tokens 3, 17 and 0.

    It stands in for the tokeniser of imported weights, whose vocabulary is not known.
    """

    kind = "numbers"
    ends_texts = False

    def __init__(self, vocab: int, eos: int) -> None:
        """Take the token `eos`, which is fed where there is no prompt; it ends nothing."""
        self.pieces = [f" {token}".encode() for token in range(vocab)]
        self.eos = eos

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the numbers.

        Raises:
            UserError: a word is no number, or no token of the vocabulary.
        """
        tokens = []
        for word in data.decode("utf-8").split():
            if not (word.isascii() and word.isdigit() and int(word) < self.vocab):
                raise UserError(f"{word!r} is no token of this model: expected numbers from 0 to {self.vocab - 1}")
            tokens.append(int(word))
        return tokens

    def ending(self, last: bytes) -> list[int]:
        return []

    def _fields(self) -> dict[str, Any]:
        return {"vocab": self.vocab, "eos": self.eos}
