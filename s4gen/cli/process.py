"""Cope with the standard streams, whether they are closed, full or narrow, and with Ctrl-C."""

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
    """Make the standard streams usable: none is None, and a character that standard output cannot show becomes "?".

    Writing to a closed standard output raises OSError, as for a full one, because the result would be lost. What is
    written to a closed standard error is dropped.
    """
    _occupy_closed()
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8", errors="replace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it is for the rest of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _occupy_closed() -> None:
    """Open the null device under every closed descriptor below 3, so that no later file becomes a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


class _Closed(io.RawIOBase):
    """A standard output that was closed. It raises only once, since Python flushes it again on its way out."""

    complained = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.complained:
            self.complained = True
            raise OSError(errno.EBADF, "it is closed")
        return len(data)


def flush_output() -> OSError | None:
    """Write out what the streams still hold; if standard output fails, return its error and forget the rest.

    Raises:
        BrokenPipeError: whoever read standard output has gone.
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
    """Send what a stream still holds to the null device; else Python would raise again when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Interrupts:
    """A handler of Ctrl-C that remembers whether it was pressed.

    The KeyboardInterrupt may reach us as another error, since a module that is being loaded may turn it into its own.
    """

    def __init__(self, before: Any) -> None:
        """Start with Ctrl-C not seen; `before` is the handler that was there before."""
        self.seen = False
        self.before = before

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; while a module is being loaded, call the handler that was there before first.

        While torch is being loaded, it now and then swallows the exception or aborts the process because of it, so the
        program's own handler (`s4gen.__main__`) ends the process there.
        """
        self.seen = True
        if callable(self.before) and _loads_a_module(frame):
            self.before(signum, frame)
        raise KeyboardInterrupt


def _loads_a_module(frame: FrameType | None) -> bool:
    """Return whether the interrupted code was called, however indirectly, by an import."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def watched_interrupts() -> Iterator[Interrupts]:
    """Note every Ctrl-C inside the block; afterwards the handler that was there before is set again."""
    found = Interrupts(before := signal.getsignal(signal.SIGINT))
    # Only the main thread may set handlers, and where Ctrl-C is ignored it has to stay so.
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield found
        return
    signal.signal(signal.SIGINT, found.handle)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
