"""Work in a process of its own, so that its peak memory is its own and its death is survived; it ends with this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TypeVar

_GOODBYE_SECONDS = 10.0
"""Seconds that a process which has answered may take to end by itself."""

A = TypeVar("A")
R = TypeVar("R")


class DiedError(Exception):
    """The process ended without an answer; most likely the system wanted its memory back."""


def run_apart(work: Callable[[A], R], argument: A) -> R:
    """Return work(argument), called in a fresh process; both must be picklable, and `work` a function of a module.

    Raises:
        DiedError: the process ended without an answer. Whatever `work` raises is raised here, too.
    """
    # fork would hand on this process's memory, and its threads in a broken state.
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, argument, send))
    process.start()
    send.close()
    try:
        answer: tuple[R | None, Exception | None] = receive.recv()
        process.join(_GOODBYE_SECONDS)  # killed at once, a compiler's helpers would be left behind, with a warning
    except EOFError:
        raise DiedError("its process died, most likely for want of memory") from None
    finally:
        process.kill()
        process.join()
    result, error = answer
    if error is not None:
        raise error
    assert result is not None  # `work` returns something, or raises
    return result


def _answer(work: Callable[[A], R], argument: A, send: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one: it ends both
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        send.send((work(argument), None))
    except Exception as error:
        send.send((None, error))


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end too: nobody waits for an answer any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
