"""Ctrl-C, SIGTERM and SIGHUP end a run after the current step, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the wish of another program, and the end of the terminal."""


class StopRequest:
    """Becomes true when somebody asks the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested and signum == signal.SIGINT:  # a second Ctrl-C means now; a system may send its signals twice
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the signals of `HEEDED` inside the block; the earlier handlers come back after it.

    A signal that is ignored stays so, as Ctrl-C is by what a script runs in the background, and SIGHUP under nohup.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield request
        return
    heeded = [number for number in HEEDED if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, request._handle) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
