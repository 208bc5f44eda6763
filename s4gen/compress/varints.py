"""Whole numbers and texts as bytes: 7 bits a byte, the lowest first, the eighth for "there is more"; a text behind its
size."""

from __future__ import annotations

from collections.abc import Iterator

LARGEST = 1 << 62


class Reader:
    """Takes bytes, numbers and texts from the front of some bytes; there is never more to take than there is.

    All methods raise ValueError where the bytes end too early or a number is larger than allowed.
    """

    def __init__(self, content: bytes) -> None:
        """Begin at the front of `content`."""
        self._content, self._at = content, 0

    @property
    def rest(self) -> bytes:
        """Return the bytes that have not been taken yet."""
        return self._content[self._at :]

    @property
    def at_end(self) -> bool:
        """Whether everything has been taken."""
        return self._at == len(self._content)

    def take(self, size: int) -> bytes:
        """Take so many bytes."""
        piece = self._content[self._at : self._at + size]
        if len(piece) < size:
            raise ValueError("its header is too short")
        self._at += size
        return piece

    def number(self, most: int = LARGEST) -> int:
        """Take a number from 0 to `most`."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if value > most or shift > 70:
                raise ValueError("a number in its header is too large")
            if byte < 0x80:
                return value

    def text(self, most: int = LARGEST) -> bytes:
        """Take a text of at most so many bytes."""
        return self.take(self.number(most))


def number(value: int) -> bytes:
    """Return the bytes of a number that is not negative."""
    return bytes(_digits(value))


def with_size(content: bytes) -> bytes:
    """Return the bytes of a text."""
    return number(len(content)) + content


def signed(value: int) -> int:
    """Return a number that is not negative for any number: 0, -1, 1, -2, 2, .. become 0, 1, 2, 3, 4, .."""
    return 2 * value if value >= 0 else -2 * value - 1


def unsigned(value: int) -> int:
    """Invert `signed`."""
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def _digits(value: int) -> Iterator[int]:
    while value >= 0x80:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
