"""Refuse, before any work, what cannot fit into memory or onto the disk, with the bytes that it would need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.config import DensityConfig

FILE = 4096
"""Bytes that a file takes on most disks, however small it is."""
BOOKKEEPING = 200
"""Bytes of memory that go with a sequence beside its tokens: its prompt, class, name and place in lists."""
FEWER = "ask for fewer, or share them out by --shard I/N"


def check_kept(count: int, each: int, noun: str, remedy: str = FEWER) -> None:
    """Refuse to hold `count` things of `each` bytes in memory if there is no room for them.

    Raises:
        UserError: there is not; the message says what they need, and how much there is.
    """
    import torch

    from s4gen.machine.memory import check_room

    check_room(count * each, torch.device("cpu"), f"keeping {count:,} {noun}", remedy)


def check_written(out: Path, count: int, each: int, noun: str) -> None:
    """Refuse to write `count` files of at least `each` bytes below `out` if the disk has no room for them.

    Raises:
        UserError: it has not; the message says what they need, and how much there is.
    """
    from s4gen.machine.memory import in_words

    above = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(above).free, count * max(FILE, each)
    if needed > free:
        raise UserError(
            f"{count:,} {noun} need at least {in_words(needed)} of disk, and {above} has {in_words(free)} free: {FEWER}"
        )


def check_scored(config: DensityConfig, rows: int, length: int, remedy: str) -> None:
    """Refuse to score `rows` rows of `length` tokens at a time if there is no room for what the blocks make of them.

    What is counted is the least that a block holds, four times its features; most models need several times as much.

    Raises:
        UserError: there is no room; the message says how much it needs, how much there is, and the `remedy`.
    """
    from s4gen.machine.device import best_device
    from s4gen.machine.memory import check_room

    needed = rows * length * 4 * 4 * config.model.d_model // config.tokens_per_input
    check_room(needed, best_device(), f"scoring {rows:,} rows of {length:,} tokens at a time", remedy)
