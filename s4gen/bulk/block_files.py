"""The files of blocks: the arrays of some rows of a run, under a name that tells the rows and a digest of the content.

A block is there whole or not at all, and its name holds a digest of its content. So a part whose writer was killed goes
on behind its last block, a damaged block is found, and two parts are equal if they have blocks of the same names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic

_NAME = re.compile(r"([0-9]{12,18})-([0-9]{12,18})-([0-9a-f]{32})\.safetensors")

Arrays = dict[str, NDArray[Any]]
"""Arrays by name; entry i along the first dimension of each belongs to the i-th row of a block."""


def rows_of(block: Path) -> range:
    """Return the rows that a block holds by its name."""
    found = _NAME.fullmatch(block.name)
    assert found is not None  # only such names are listed
    return range(int(found[1]), int(found[2]))


def read_block(block: Path) -> Arrays:
    """Read the arrays of a block.

    Raises:
        UserError: it cannot be read, or its content is not that which its name tells.
    """
    try:
        content = block.read_bytes()
    except OSError as error:
        raise UserError(f"{block} cannot be read: {error.strerror}") from None
    if _digest(content) != block.stem.rpartition("-")[2]:
        raise UserError(f"{block} is damaged or cut off: run the command of this part again, which makes it anew")
    try:
        arrays: Arrays = safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{block} is not a block of a part ({str(error)[:200]})") from None
    return arrays


def write_block(folder: Path, rows: range, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the block of these rows to `folder`, whole or not at all.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_file_atomic(folder / f"{rows.start:012d}-{rows.stop:012d}-{_digest(content)}.safetensors", content)


def blocks_in(folder: Path) -> tuple[Path, ...]:
    """Return the blocks in `folder` that hold any rows by their names, in the order of their rows."""
    found = [block for block in folder.iterdir() if _NAME.fullmatch(block.name) and rows_of(block)]
    return tuple(sorted(found, key=_in_order))


def _in_order(block: Path) -> tuple[int, int, str]:
    rows = rows_of(block)
    return rows.start, rows.stop, block.name


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
