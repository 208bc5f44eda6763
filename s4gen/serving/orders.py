"""Orders: what a request asks of a model, and the channel in which what is drawn comes back to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from s4gen.sampling.filters import Filters
from s4gen.sampling.prompts import Start
from s4gen.serving.refusal import RefusedError

if TYPE_CHECKING:
    from s4gen.serving.served import Served


class Row(Protocol):
    """One sequence of an order, which takes in the tokens that are drawn for it and tells the order's channel."""

    number: int
    """The number of the sequence, which together with the seed fixes its random numbers."""

    @property
    def left(self) -> int:
        """How many tokens it still wants, at most; 0 when it has ended."""
        ...

    def take(self, tokens: list[int], channel: Channel) -> int:
        """Take the next tokens; return how many of them it has used. It is called in the worker's thread."""
        ...


@dataclass(eq=False)
class Part:
    """Rows of an order whose prompts are read together."""

    rows: Sequence[Row]
    read: Callable[[], Start]
    """Reads the prompts and returns a row for each of `rows`. It is called in a thread of its own."""


PATIENCE, MANY = 5.0, 8
"""Seconds for which more may wait than the bound if the client takes nothing meanwhile, and how many times as much."""


class Channel:
    """Carries events from the worker's thread to the coroutine that answers, and bounds what waits between them.

    It is closed once: by the worker when all rows have ended, or by whoever gives the order up.
    """

    def __init__(self, most: int) -> None:
        """Make a channel of the running loop, in which events of `most` bytes together may wait for long."""
        self._loop, self._most = asyncio.get_running_loop(), most
        self._events: asyncio.Queue[tuple[Any, int] | None] = asyncio.Queue()
        self._lock, self._waiting, self._closed = threading.Lock(), 0, False
        self._taken = time.monotonic()  # when the client last took something, or there was nothing to take
        self.failure: RefusedError | None = None
        """Why the order was not carried out; None where it was."""
        self.broken = asyncio.Event()
        """Set when the channel is closed because of a failure."""

    @property
    def closed(self) -> bool:
        """Whether no more events come in."""
        return self._closed

    def post(self, event: Any, size: int) -> None:
        """Send an event that takes roughly `size` bytes; if too much waits already, the channel is closed instead.

        A few steps of many rows come at once, so a client gets the time to take them.
        """
        now = time.monotonic()
        with self._lock:
            if self._closed:
                return
            self._taken = self._taken if self._waiting else now
            self._waiting += size
            slow = now - self._taken > PATIENCE
            full = self._waiting > self._most * (1 if slow else MANY)
        if full:
            self.close(RefusedError(503, "the client does not read, so its request was dropped", code="slow_client"))
        else:
            self._send((event, size))

    def close(self, failure: RefusedError | None = None) -> None:
        """End the channel: after what has been sent comes the end, and `failure` says why; later calls do nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed, self.failure = True, failure
        self._send(None)

    def _send(self, item: tuple[Any, int] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived, item)
        except RuntimeError:  # the loop has ended, and nobody is there to be told
            self._closed = True

    def _arrived(self, item: tuple[Any, int] | None) -> None:
        self._events.put_nowait(item)
        if item is None and self.failure is not None:
            self.broken.set()

    async def events(self) -> AsyncIterator[Any]:
        """Yield the events until the order has been carried out.

        Raises:
            RefusedError: it was not, or not to its end; the events before that have been yielded.
        """
        while (item := await self._events.get()) is not None:
            with self._lock:
                self._waiting -= item[1]
                self._taken = time.monotonic()
            yield item[0]
        if self.failure is not None:
            raise self.failure


@dataclass(eq=False)
class Order:
    """The work that a request asks of a model."""

    model: Served
    filters: Filters
    seed: int
    """Seed of the random numbers, 0 to 2^64 - 1."""
    parts: Sequence[Part]
    channel: Channel
    came: float = field(default_factory=time.monotonic)
    """When it was made, on the monotonic clock."""
    unread: int = 0
    """How many of its parts still wait to be read."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(part.rows) for part in self.parts)

    @property
    def going(self) -> int:
        """How many rows have not ended."""
        return sum(row.left > 0 for part in self.parts for row in part.rows)
