"""Merge pairs of UTF-8 bytes into tokens (byte-pair encoding), by the `tokenizers` package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from s4gen.data.text.tokenizer import Tokenizer
from s4gen.errors import UserError

SMALLEST = 257
"""The bytes and `<eos>`, without a single merge."""


class BPETokenizer(Tokenizer):
    """Frequent strings of bytes as tokens, and `<eos>`, the last token, after each document.

    No token crosses the end of a line, so the tokens of a text are those of its lines. The 256 bytes are tokens, so
    every text has tokens and comes back exactly. (Sennrich et al. 2016, arXiv 1508.07909; on bytes as in GPT-2.)
    """

    kind = "bpe"

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        """Take the JSON object of the `tokenizers` package.

        Raises:
            ValueError: it is something else.
        """
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_str(json.dumps(tokenizer))
        except Exception as error:  # the package raises Exception itself
            raise ValueError(f"not the JSON of `tokenizers`: {error}") from error
        byte_of = _bytes_of_characters()
        numbers = self._backend.get_vocab()
        texts = sorted(numbers, key=lambda text: numbers[text])
        if [numbers[text] for text in texts] != list(range(len(texts))):
            raise ValueError("its tokens are not numbered 0, 1, 2, ..")
        if not all(character in byte_of for text in texts for character in text):
            raise ValueError("one of its tokens is not of bytes")
        self.pieces = [*(bytes(byte_of[character] for character in text) for text in texts), b""]
        self.eos = len(texts)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn merges from texts; the vocabulary is smaller than `vocab_size` if these do not yield as many.

        Raises:
            UserError: `vocab_size` has no room for the bytes and `<eos>`.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers, trainers

        if vocab_size < SMALLEST:
            raise UserError(
                f"a byte-pair vocabulary of {vocab_size}: expected at least {SMALLEST}, 256 bytes and <eos>"
            )
        backend = Backend(models.BPE())
        lines = pre_tokenizers.Split("\n", "merged_with_previous")
        backend.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,  # <eos> is ours: to the backend, a literal "<eos>" is text like any other
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator((line for text in texts for line in _lines(text)), trainer)
        return cls(json.loads(backend.to_str()))

    def encode_bytes(self, data: bytes) -> list[int]:
        # Line by line: the same tokens, faster, and lines are shared out among the cores.
        found = self._backend.encode_batch_fast(_lines(data.decode("utf-8")), add_special_tokens=False)
        return [token for line in found for token in line.ids]

    def ending(self, last: bytes) -> list[int]:
        return [len(self.pieces) - 1]

    def _fields(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self._backend.to_str())}


def _lines(text: str) -> list[str]:
    """Cut a text at "\\n" alone, which stays; `str.splitlines` would cut at other characters, too."""
    *whole, last = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([last] if last else [])]


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte for each character of the package.

    A printable Latin-1 byte is its own character; the others, in their order, are those from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
