"""Parts that belong together: all of one run, none missing, none twice with other content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.bulk.block_files import Arrays
from s4gen.bulk.part import ABOUT, Part, difference, read_part
from s4gen.config.layouts import Layout
from s4gen.config.strict import build_layout, flatten
from s4gen.errors import UserError

_NAMED = 5
"""A message names at most this many missing parts; of more, it gives the number."""


def read_parts(paths: Iterable[Path]) -> list[Part]:
    """Read the parts of one run and return each once, in order.

    Raises:
        UserError: one cannot be read or is not finished; they are of several runs; two of the same shard differ; or one
            is missing.
    """
    found: dict[int, Part] = {}
    first: Part | None = None
    for path in paths:
        part = read_part(path)
        first = first or part
        if why := difference(first, part):
            raise UserError(f"{first.path} and {path} are parts of different runs: {why}")
        if not part.complete:
            done = f"{part.done:,} of its {len(part.own):,} rows are there"
            raise UserError(f"{path}, part {part.shard}, is not finished: {done}; run its command again")
        same = found.setdefault(part.shard.number, part)
        if _names(same) != _names(part):
            raise UserError(f"{same.path} and {path} are both part {part.shard}, and they differ; leave one out")
    if first is None:
        raise UserError("no parts are given")
    _check_all_there(found, first)
    return [found[number] for number in sorted(found)]


def all_arrays(parts: Sequence[Part]) -> Iterator[tuple[range, Arrays]]:
    """Yield the rows of every block of all parts and its arrays, in the order of the single run."""
    for part in parts:
        yield from part.arrays()


def column(rows: range, arrays: Arrays, name: str, dtype: str, length: int | None = None) -> NDArray[Any]:
    """Return the array `name` of a block of these rows: (rows,), or (rows, length), of the type `dtype`.

    Raises:
        UserError: there is none such in the block.
    """
    found = arrays.get(name)
    shape = (len(rows),) if length is None else (len(rows), length)
    if found is None or found.dtype != np.dtype(dtype) or found.shape != shape:
        raise UserError(f"the block of the rows {rows.start} to {rows.stop} is not one of this run: {name} is missing")
    return found


def shown(part: Part, name: str, kind: type) -> Any:
    """Return what part.json says under "shown".

    Raises:
        UserError: it is missing, or no `kind`.
    """
    value = part.run.shown.get(name)
    if type(value) is not kind:
        raise UserError(f"{part.path / ABOUT} is damaged: {name} is missing, or no {kind.__name__}")
    return value


def layout_of(part: Part) -> Layout:
    """Return the layout of the model that a part was made by.

    Raises:
        UserError: part.json holds none.
    """
    source = str(part.path / ABOUT)
    table = shown(part, "layout", dict)
    layout = build_layout(flatten({"layout": table}, ("layout",), source, also=["layout.kind"]), source)
    if layout.kind != part.run.kind:
        raise UserError(f"{source} is damaged: a run of kind {part.run.kind} with a layout of kind {layout.kind}")
    return layout


def _check_all_there(found: dict[int, Part], one: Part) -> None:
    missing = [number for number in range(one.shard.of) if number not in found]
    if missing:
        names = ", ".join(f"{number}/{one.shard.of}" for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        subject, verb = ("parts", "are") if len(missing) > 1 else ("part", "is")
        raise UserError(f"{subject} {names}{more} of the run {verb} missing")
    at = 0
    for number in sorted(found):
        if found[number].own.start != at:
            raise UserError(f"{found[number].path} does not go on where the part before it ends: it is damaged")
        at = found[number].own.stop
    if at != one.run.rows:
        raise UserError(f"the parts hold {at:,} of {one.run.rows:,} rows: one of them is damaged")


def _names(part: Part) -> list[str]:
    return [block.name for block in part.blocks]
