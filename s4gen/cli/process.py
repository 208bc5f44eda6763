"""The program's place among others: its standard streams, whatever they are, and Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO


def prepare_streams() -> None:
    """Make the standard streams usable: none is None, and no character that one cannot show is an error.

    Such a character becomes "?". What is written to a standard output that was closed is an OSError, as it is where
    one is full; what is written to a closed standard error is nowhere.
    """
    _occupy_closed()
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8", errors="replace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it is for the rest of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _occupy_closed() -> None:
    """Let no file that is opened later become standard input, output or error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


class _Closed(io.RawIOBase):
    """A standard output that was closed. It complains once: Python itself flushes it again at its end."""

    complained = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.complained:
            self.complained = True
            raise OSError(errno.EBADF, "it is closed")
        return len(data)


def flush_output() -> OSError | None:
    """Write out what the streams still hold; the error, if standard output fails, of which nobody hears again.

    Raises:
        BrokenPipeError: the reader has gone.
    """
    try:
        sys.stderr.flush()
    except OSError:
        forget(sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget(sys.stdout)
        return error
    return None


def forget(stream: TextIO) -> None:
    """Send what a stream still holds to nowhere; Python would complain once more when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Interrupts:
    """Whether Ctrl-C was pressed, which may reach us as another error: a module being loaded makes one of its own."""

    def __init__(self, before: Any) -> None:
        self.seen = False
        self.before = before

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but leave the loading of a module to the handler of before.

        Torch, while it loads, now and then swallows the exception or aborts the process on it.
        """
        self.seen = True
        if callable(self.before) and _loads_a_module(frame):
            self.before(signum, frame)
        raise KeyboardInterrupt


def _loads_a_module(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def watched_interrupts() -> Iterator[Interrupts]:
    """Note every Ctrl-C inside the block; the handler of before comes back after it."""
    found = Interrupts(before := signal.getsignal(signal.SIGINT))
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield found
        return
    signal.signal(signal.SIGINT, found.handle)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
