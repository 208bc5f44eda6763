"""How the rows of a session are laid out in the engine: one after another, or so many side by side in vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LANES = (8, 16, 32)
"""The numbers of rows that the engine can put side by side."""
SOLO = 4
"""Rows that it takes together, at most, when they lie one after another."""
WAITING = 1.25
"""How many times as long as their share of the work threads take that wait for each other in every operation."""

Index = Tensor | slice
ALL = slice(None)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one thread for one step of a model on this machine."""

    one: float
    """Of a row alone."""
    solo: float
    """Of `SOLO` rows one after another."""
    group: Mapping[int, float]
    """Of a group of rows side by side, by its size, however many of them are live."""


def lanes_for(rows: Sequence[int], threads: int, times: StepTimes) -> int:
    """Choose how many rows lie side by side in one vector; 0: one after another, shared by all threads.

    It is what takes the least time. All rows give the same results either way.

    Args:
        rows: how many rows there are of each phase, as only rows of one phase can lie side by side.
    """
    alone = sum(n // SOLO * times.solo + n % SOLO * times.one for n in rows) / threads
    if threads > 1:
        alone *= WAITING
    together = {n: own * -(-sum(-(-count // n) for count in rows) // threads) for n, own in times.group.items()}
    best = min(together, key=lambda lanes: together[lanes])
    return best if together[best] < alone else 0


def arranged(phase: Tensor, lanes: int) -> tuple[Index, Index]:
    """Find which row stands in every slot, and in which slot every row: rows of one phase form groups of their own.

    A row may stand in more than one slot, to fill its group.
    """
    if (phase == phase[:1]).all():
        return ALL, ALL
    groups = []
    for rows in (torch.nonzero(phase == own)[:, 0] for own in phase.unique()):
        groups += [rows, rows[-1:].expand(-len(rows) % max(lanes, 1))]
    slots, own = torch.cat(groups), torch.empty_like(phase)
    own[slots] = torch.arange(len(slots))
    return slots, own
