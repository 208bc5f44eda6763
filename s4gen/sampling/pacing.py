"""Steps in chunks: long enough to cost nothing, short enough that progress is live and Ctrl-C prompt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 0.05
"""How long a chunk shall last."""
_GROWTH = 4


class Pace:
    """How many steps to ask for at once: first 1, then as many as last SECONDS."""

    def __init__(self) -> None:
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        """So many steps lasted so long."""
        wanted = int(steps * SECONDS / max(seconds, 1e-9))
        self.steps = max(1, min(wanted, _GROWTH * self.steps))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C inside the block takes effect at its end, so that what is changed inside is changed as a whole."""
    if threading.current_thread() is not threading.main_thread():  # only the main one is ever interrupted
        yield
        return
    received = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        # None stands for a handler that Python did not set and cannot put back.
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)
    if received:
        signal.raise_signal(signal.SIGINT)
