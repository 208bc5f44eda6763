"""Let Ctrl-C, SIGTERM and SIGHUP end a run after its current step, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a request of another program, and the end of the terminal."""


class StopRequest:
    """A flag that is false until a signal asks the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # A second Ctrl-C means "now". Other signals do not: a system may send the same one twice.
        if self.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the signals of `HEEDED` inside the block; after it, the earlier handlers are in force again.

    A signal that this process ignores stays ignored, such as Ctrl-C in a script's background, or SIGHUP under nohup.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers only there
        yield request
        return
    heeded = [number for number in HEEDED if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, request._handle) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
