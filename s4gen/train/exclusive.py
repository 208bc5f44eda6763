"""Make sure that the folder of a run has one writer at a time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from s4gen.errors import UserError
from s4gen.files.atomic import write_error
from s4gen.files.folders import locked

P = ParamSpec("P")
First = TypeVar("First")


def one_writer(run: Callable[Concatenate[First, Path, P], bool]) -> Callable[Concatenate[First, Path, P], bool]:
    """Decorate `run(x, out, ...)` so that it holds the lock on the folder `out` while it runs.

    The decorated function raises UserError while another run, in this process or any other, writes to `out`.
    """

    @functools.wraps(run)
    def alone(first: First, out: Path, *args: P.args, **settings: P.kwargs) -> bool:
        with only_writer(out, make=not settings.get("resume")):
            return run(first, out, *args, **settings)

    return alone


@contextlib.contextmanager
def only_writer(out: Path, make: bool) -> Iterator[None]:
    """Hold the lock on a folder inside the block. If the block fails, folders that were made for it and are empty go.

    Args:
        out: the folder. If it is missing and not to be made, nothing is locked.
        make: make the folder if it is missing.

    Raises:
        UserError: another writer holds the lock, or the folder cannot be made.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    if missing and make:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, out) from error
    if not out.is_dir():
        yield
        return
    with locked(out, lambda: _refuse(out)):
        try:
            yield
        except BaseException:
            # Remove while the lock is held. Once it is released, the folder may belong to another run.
            for path in missing:
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()
            raise


def _refuse(out: Path) -> None:
    raise UserError(f"another run is writing to {out}: wait until it ends, or choose another --out")
