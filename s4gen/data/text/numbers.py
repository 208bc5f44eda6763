"""Tokens that stand for nothing else: written as numbers between spaces, for models whose vocabulary is not known."""

from __future__ import annotations

from typing import Any

from s4gen.data.text.tokenizer import Tokenizer
from s4gen.errors import UserError


class NumberTokenizer(Tokenizer):
    """The text "3 17 0" is the tokens 3, 17 and 0."""

    kind = "numbers"
    ends_texts = False

    def __init__(self, vocab: int, eos: int) -> None:
        """`eos` is the token that is fed where there is no prompt; it ends nothing."""
        self.pieces = [f" {token}".encode() for token in range(vocab)]
        self.eos = eos

    def encode_bytes(self, data: bytes) -> list[int]:
        """Raises UserError for what is no number, or no token of the vocabulary."""
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
