"""Tell on standard error how work goes on: a progress bar, if wanted and possible, and lines that are said once."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any


@functools.cache
def say_once(line: str) -> None:
    """Print a line on standard error, unless this process has printed it before."""
    print(line, file=sys.stderr)


class _NoBar:
    """A progress bar that shows nothing."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, n: int) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        pass


class _Forgiving:
    """A stream that swallows errors of writing: nobody has to read a bar, so work goes on when its terminal is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress_bar(total: int, unit: str, progress: bool, desc: str = "", initial: int = 0) -> Any:
    """Return a context manager with tqdm's `update(n)` and `set_postfix_str(text)`.

    The bar counts from `initial`, the part that was done before, to `total`. A text appears when the bar is drawn next,
    and with `set_postfix_str(text, refresh=True)` at once. Unless `progress`, or without tqdm, nothing is drawn.
    """
    if not progress:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    # In a log file every refresh is a line of its own, so there are few.
    patience = 0.1 if sys.stderr.isatty() else 30.0
    bar = tqdm(
        total=total,
        unit=unit,
        desc=desc,
        initial=initial,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=patience,
        file=_Forgiving(sys.stderr),
    )
    # tqdm's own default is to draw the bar again for every new text, however short ago the last time was.
    bar.set_postfix_str = functools.partial(bar.set_postfix_str, refresh=False)
    return bar
