"""Keep decoders in C quiet, which speak of damaged files on standard error in words for their programmers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what libraries write to the process's standard error inside of the block.

    libmpg123 and libtiff write there whatever Python does with its own stream. What is wrong with a file is said by
    whoever reads it, in one line.
    """
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no standard error to be quiet on
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
