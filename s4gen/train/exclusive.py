"""One writer at a time for the folder of a run."""

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
    """`run(x, out, ...)`, refused with a UserError while another run, of this or any other process, writes to `out`."""

    @functools.wraps(run)
    def alone(first: First, out: Path, *args: P.args, **settings: P.kwargs) -> bool:
        with only_writer(out, make=not settings.get("resume")):
            return run(first, out, *args, **settings)

    return alone


@contextlib.contextmanager
def only_writer(out: Path, make: bool) -> Iterator[None]:
    """Hold the lock on a folder, which is made if missing where `make` says so; a failure leaves none that is empty.

    Raises:
        UserError: somebody else holds it; or it cannot be made.
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
        except BaseException:  # while the lock is held: else the folder could be somebody else's by now
            for path in missing:
                with contextlib.suppress(OSError):  # it holds something
                    path.rmdir()
            raise


def _refuse(out: Path) -> None:
    raise UserError(f"another run is writing to {out}: wait until it ends, or choose another --out")
