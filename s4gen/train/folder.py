"""The folder of a run: what is in it, what a killed writer left there, whether its checkpoints fit on the disk.

    recipe.toml      everything the run was asked for; it is there from the run's first step on
    checkpoint/      where the run is, and the model that it has so far
    best/            with `train.patience`, the model that was best on held-out data
    metrics.jsonl, metrics.csv, samples/    what the run shows of itself

All of this is for who alone writes there (s4gen.train.exclusive).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from s4gen.checkpoint import read_json
from s4gen.errors import UserError, WriteError
from s4gen.files.atomic import current, discard, recover, write_error
from s4gen.files.unfinished import is_leftover, remove_all_leftovers
from s4gen.machine.memory import in_words

CHECKPOINT, BEST, RECIPE, SAMPLES_FOLDER = "checkpoint", "best", "recipe.toml", "samples"


def is_free(out: Path) -> bool:
    """Whether a new run may begin here: nothing is, or nothing but what a killed writer left unfinished."""
    if not out.exists():
        return True
    return out.is_dir() and all(is_leftover(entry) for entry in out.iterdir())


def put_right(out: Path) -> None:
    """Let the folder of a run be as if its last writer had not been killed in the middle of something.

    Raises:
        UserError: it cannot be written to.
    """
    for name in (CHECKPOINT, BEST):
        recover(out / name)
    for folder in (out, out / SAMPLES_FOLDER):
        remove_all_leftovers(folder)


def clear(out: Path) -> None:
    """Remove the run in a folder, before another one takes its place.

    Its recipe goes first: without one nobody takes what is left for a run to go on with.

    Raises:
        UserError: something cannot be removed.
    """
    try:
        (out / RECIPE).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(error, out / RECIPE) from error
    for name in (CHECKPOINT, BEST):
        discard(out / name)


def recipe_file(out: Path) -> Path | None:
    """The recipe of the run in a folder, or that of its checkpoint; None: there is no run."""
    checkpoint = current(out / CHECKPOINT)
    places = [out / RECIPE, *([] if checkpoint is None else [checkpoint / RECIPE])]
    return next((path for path in places if path.is_file()), None)


def check_disk(out: Path, needed: int, reclaimed: int = 0) -> None:
    """Refuse a run whose checkpoints need more bytes than are free; `reclaimed` more become so before it begins.

    Raises:
        UserError: it says how much is needed and how much there is.
    """
    disk = shutil.disk_usage(out)
    there = disk.free + reclaimed
    if disk.total and needed > there:  # some file systems do not say how large they are
        raise UserError(
            f"the run in {out} needs about {in_words(needed)} more for its checkpoints, of which the last one is kept "
            f"until the next is whole, and there are {in_words(there)} free: make room, or choose another --out"
        )


def size_of_run(out: Path) -> int:
    """Bytes of what `clear` removes."""
    folders = [out / name for name in (CHECKPOINT, BEST)]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def saying_what_is_left(out: Path) -> Iterator[None]:
    """What cannot be written inside the block is one line, which says also what there is of the run to go on with."""
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error}; {_left(out)}") from error


def _left(out: Path) -> str:
    checkpoint = current(out / CHECKPOINT)
    if checkpoint is not None:
        with contextlib.suppress(UserError, KeyError):
            step = read_json(checkpoint / "training.json")["step"]
            return f"the run can go on from step {step}: s4gen train --resume {out}"
    if (out / RECIPE).is_file():
        return f"the run had no checkpoint yet and can begin again: s4gen train --resume {out}"
    return "the run had not begun"
