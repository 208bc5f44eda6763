"""Texts to tokens and back, byte for byte, whatever the tokeniser can say.

A tokeniser of bytes or of byte pairs loses nothing. Words do: other white space, and words that are not known. So a
text is cut into the pieces that its tokens stand for, and where a piece is not what its token writes, it is kept as it
is beside the tokens, compressed by zlib.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from s4gen.compress.coding import Whole
from s4gen.compress.contents import Item
from s4gen.compress.varints import Reader, number, with_size
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.files.reading import LARGE, read_bounded

_PIECES = {"word": re.compile(r"[^\S\n]*(?:\S+|\n)"), "numbers": re.compile(r"\s*\S+")}
"""The unit that one token stands for, by the kind of the tokeniser, where tokens do not say it themselves."""
_INFLATION = 1040
"""zlib makes at most so many bytes of one."""


class Texts:
    """Texts in the tokens of one tokeniser."""

    suffix = ""
    length = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the tokeniser of the model."""
        self._tokenizer = tokenizer

    def read(self, path: Path, lossy: bool) -> Item:
        """Read a text, in UTF-8 unless tokens are bytes; see `Contents`. Nothing is ever lost."""
        data = read_bounded(path, LARGE)
        if not data:
            raise UserError(f"{path} is empty, so there is nothing to compress; leave it out")
        try:
            tokens = self._tokenizer.encode_bytes(data)
            extra, odd = self._exceptions(tokens, data)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is no UTF-8 at byte {error.start}, and the tokens of this model are made of UTF-8; convert "
                "it, or choose a model of bytes"
            ) from error
        except UserError as error:  # a word that is no number
            raise UserError(f"{path}: {error}") from error
        item = Item(path, path.name, len(data), np.array(tokens, dtype=np.int64), extra=extra)
        if not tokens or self.restore(item.tokens, None, extra) != data:
            raise UserError(f"{path} cannot be said in the tokens of this model; choose a model of bytes")
        if odd:
            item.notes.append(
                f"{path}: {odd:,} of {len(tokens):,} words are unknown to the model, or spaced otherwise than in its "
                f"training text; they are kept as they are, in {len(extra):,} bytes"
            )
        return item

    def widths(self, extra: bytes) -> None:
        """Return None: what a token does not say is among the exceptions."""

    def restore(self, tokens: Whole, fine: Whole | None, extra: bytes) -> bytes:
        """Return the bytes of the text; see `Contents`."""
        pieces = [self._tokenizer.pieces[token] for token in tokens.tolist()]
        if not extra:
            return b"".join(pieces)
        reader, at = Reader(_inflated(extra)), 0
        rest = reader.text()
        while not reader.at_end:
            at += reader.number(len(pieces))
            if at >= len(pieces):
                raise ValueError("an exception stands behind the end of its text")
            pieces[at] = reader.text()
        return b"".join([*pieces, rest])

    def _exceptions(self, tokens: list[int], data: bytes) -> tuple[bytes, int]:
        """Return the pieces of a text that its tokens do not write, in the form that `restore` reads, and their number.

        They are: what stands behind the last token, and then for each piece the distance from the one before it, and
        its bytes.
        """
        pattern, odd, last = _PIECES.get(self._tokenizer.kind), [], 0
        if pattern is None:
            return b"", 0
        text, end = data.decode("utf-8"), 0
        for position, (token, found) in enumerate(zip(tokens, pattern.finditer(text), strict=False)):
            piece, end = found[0].encode("utf-8"), found.end()
            if piece != self._tokenizer.pieces[token]:
                odd.append(number(position - last) + with_size(piece))
                last = position
        rest = text[end:].encode("utf-8")
        if not odd and not rest:
            return b"", 0
        return zlib.compress(with_size(rest) + b"".join(odd), 9), len(odd)


def _inflated(content: bytes) -> bytes:
    """Undo zlib, and never hold more than so many bytes can stand for."""
    try:
        return zlib.decompressobj().decompress(content, _INFLATION * len(content))
    except zlib.error as error:
        raise ValueError("the exceptions of a text are no zlib") from error
