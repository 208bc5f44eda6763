"""Pacing: steps are taken in chunks, long enough to cost nothing and short enough for live progress and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 0.05
"""How long a chunk should last."""
_GROWTH = 4
"""A chunk has at most this many times the steps of the one before, so that one odd timing has little effect."""


class Pace:
    """Chooses how many steps to ask for at once: first 1, then as many as take SECONDS."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        """Learn that this many steps took this many seconds."""
        wanted = int(steps * SECONDS / max(seconds, 1e-9))
        self.steps = max(1, min(wanted, _GROWTH * self.steps))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C inside of the block to its end, so that what is changed there is changed as a whole."""
    # Python interrupts only its main thread, and no other thread may set a handler.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        # None means a handler that was not set from Python; it cannot be put back from Python either.
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)
    if received:
        signal.raise_signal(signal.SIGINT)
