"""Items, for images, texts and sound alike: an item is a file as tokens, with all that makes it a file again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from s4gen.compress.coding import Whole


@dataclass(frozen=True, eq=False)
class Item:
    """A file that is to be coded."""

    path: Path
    """Where it was read."""
    name: str
    """The name under which it comes back."""
    size: int
    """Bytes of what is kept of it: values of pixels, bytes of a text or of samples."""
    tokens: Whole
    """(L,), L >= 1."""
    fine: Whole | None = None
    """(L,): the numbers behind the tokens, where these have widths."""
    extra: bytes = b""
    """The bytes that are needed beside them."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user, one for each thing that is worth knowing."""


class Contents(Protocol):
    """Files of one kind, for one model."""

    suffix: str
    """The end of every name, which is not kept; "" if names are kept whole."""
    length: int
    """Tokens of every file; 0: each has its own number."""

    def read(self, path: Path, lossy: bool) -> Item:
        """Read a file.

        Raises:
            UserError: it cannot be read, or not be kept without loss; with `lossy`, a loss is no reason.
        """
        ...

    def widths(self, extra: bytes) -> Whole | None:
        """Return how many numbers each token (V,) stands for; None: one.

        Raises:
            ValueError: the extra bytes are none that `read` made.
        """
        ...

    def restore(self, tokens: Whole, fine: Whole | None, extra: bytes) -> bytes:
        """Return the content of the file.

        Raises:
            ValueError: the extra bytes are none that `read` made.
        """
        ...
