"""How much one request, and all requests together, may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. What goes beyond them is refused with a message that names the bound."""

    rows: int = 128
    """Rows, of all requests together, that are drawn at a time."""
    queue: int = 64
    """Requests that may wait for room; one more is answered with 429."""
    per_request: int = 64
    """Rows of one request."""
    max_tokens: int = 4096
    """Tokens to be drawn for one text."""
    prompt_tokens: int = 16_384
    """Tokens of all prompts of a request together."""
    seconds: float = 30.0
    """Seconds of sound to be drawn."""
    body: int = 1 << 18
    """Bytes of a request's body."""
    unread: int = 1 << 20
    """Bytes, roughly, that are kept for a client that does not read; then its request is dropped. For a few seconds it
    may be eight times as much."""
    timeout: float = 300.0
    """Seconds from a request's arrival to the end of its answer."""
    stall: float = 30.0
    """Seconds after which a connection is closed on which nothing moves."""
    grace: float = 10.0
    """Seconds that requests under way have to end in, once the server is told to stop."""
