"""The folder of a run: its contents, the leftovers of a killed writer, and room for checkpoints on the disk.

    recipe.toml      all settings of the run; written before its first step
    checkpoint/      the state of the run, and its model so far
    best/            with `train.patience`: the model that was best on held-out data
    metrics.jsonl, metrics.csv, samples/    the progress of the run

Call these functions only while you hold the lock on the folder (s4gen.train.exclusive).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from s4gen.errors import UserError, WriteError
from s4gen.files.atomic import current, discard, recover, write_error
from s4gen.files.unfinished import is_leftover, remove_all_leftovers
from s4gen.machine.memory import in_words
from s4gen.train.saved import read_progress

CHECKPOINT, BEST, RECIPE, SAMPLES_FOLDER = "checkpoint", "best", "recipe.toml", "samples"


def is_free(out: Path) -> bool:
    """Return whether a new run may begin here: there is nothing, or only unfinished files of a killed writer."""
    if not out.exists():
        return True
    return out.is_dir() and all(is_leftover(entry) for entry in out.iterdir())


def put_right(out: Path) -> None:
    """Repair what a killed writer left: put back a checkpoint that was moved aside, and remove what is unfinished.

    Raises:
        UserError: the folder cannot be written to.
    """
    for name in (CHECKPOINT, BEST):
        recover(out / name)
    for folder in (out, out / SAMPLES_FOLDER):
        remove_all_leftovers(folder)


def clear(out: Path) -> None:
    """Remove the run in a folder, before another one takes its place.

    The recipe goes first: if this is interrupted, what is left has no recipe and is not resumed by mistake.

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
    """Return the file with the recipe of a run, beside or in its checkpoint; None if there is no run."""
    checkpoint = current(out / CHECKPOINT)
    places = [out / RECIPE, *([] if checkpoint is None else [checkpoint / RECIPE])]
    return next((path for path in places if path.is_file()), None)


def check_disk(out: Path, needed: int, reclaimed: int = 0) -> None:
    """Refuse a run whose checkpoints do not fit on the disk.

    Args:
        out: the folder of the run, which exists.
        needed: bytes that the run will write.
        reclaimed: bytes of an older run that are freed before this one begins.

    Raises:
        UserError: too little is free; the message says how much is needed and how much there is.
    """
    disk = shutil.disk_usage(out)
    there = disk.free + reclaimed
    if disk.total and needed > there:  # some file systems report a size of 0
        raise UserError(
            f"the run in {out} needs about {in_words(needed)} more for its checkpoints, of which the last one is kept "
            f"until the next is whole, and there are {in_words(there)} free: make room, or choose another --out"
        )


def size_of_run(out: Path) -> int:
    """Return how many bytes `clear` would free, the recipe aside."""
    folders = [out / name for name in (CHECKPOINT, BEST)]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def saying_what_is_left(out: Path) -> Iterator[None]:
    """Add to a WriteError that is raised inside the block what is left of the run and how to resume it.

    Raises:
        WriteError: the same error, in one longer line.
    """
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error}; {_left(out)}") from error


def _left(out: Path) -> str:
    """Return what there is of the run in a folder, and the command that resumes it, for the end of a message."""
    checkpoint = current(out / CHECKPOINT)
    if checkpoint is not None:
        with contextlib.suppress(UserError):
            step = read_progress(checkpoint)["step"]
            return f"the run can go on from step {step}: s4gen train --resume {out}"
    if (out / RECIPE).is_file():
        return f"the run had no checkpoint yet and can begin again: s4gen train --resume {out}"
    return "the run had not begun"
