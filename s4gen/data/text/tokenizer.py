"""Define the base class of all tokenisers, and the decoder that writes tokens as they come.

Every token stands for bytes that do not depend on its neighbours, so decoding is joining, and text can be streamed.
A tokeniser is a value: `to_json` is all there is to it, and equal JSON means equal tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

from s4gen.errors import UserError

FORMAT = 1
"""Version of the JSON; a reader refuses a newer one."""


class Tokenizer(ABC):
    """The base class of all tokenisers: text to tokens, tokens to text, and everything there is to it as JSON."""

    kind: ClassVar[str]
    """One of `names.TOKENIZERS`, or "numbers", which comes with imported weights."""
    pieces: Sequence[bytes]
    """The bytes that each token writes."""
    eos: int | None
    """The token behind which a text starts: the end of a line for words, the end of a document for the others."""
    ends_texts: ClassVar[bool] = True
    """Whether `eos` is the end of a document, so that a text that is drawn ends there."""

    @property
    def vocab(self) -> int:
        """Number of tokens; they are 0 to vocab - 1."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; no end is added to it.

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
        """Return the tokens of whole lines, which are UTF-8 unless the kind is "bytes" (else UnicodeDecodeError)."""

    @abstractmethod
    def ending(self, last: bytes) -> list[int]:
        """Return the tokens that end a document whose last part is `last`."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text that tokens write; U+FFFD stands for bytes that are not UTF-8."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", "replace")

    @abstractmethod
    def _fields(self) -> dict[str, Any]:
        """Return what `kinds.from_json` needs besides the kind."""

    def to_json(self) -> str:
        """Return all that there is to it as one JSON object; `kinds.from_json` is the inverse."""
        return json.dumps({"format": FORMAT, "kind": self.kind, **self._fields()}, ensure_ascii=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `to_json` in hexadecimal: equal where two tokenisers are."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()


class StreamDecoder:
    """Tokens to text as they come. A character is given out when its last byte is there, never in halves.

    What `feed` and then `finish` return is, joined, `decode` of all tokens: bytes that cannot be UTF-8 any more become
    U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """Return the text that is complete with this token; for bytes it is often empty."""
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        """Return what was held back, as U+FFFD; the decoder can then be used for another text."""
        return self._decoder.decode(b"", final=True)
