"""The choice between two layouts of a session's rows: one after another, or several side by side in vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LANES = (8, 16, 32)
"""How many rows the engine can put side by side."""
SOLO = 4
"""The most rows that the engine takes together when they lie one after another."""
WAITING = 1.25
"""Threads that share a step wait for each other in every operation, so they take this many times their share."""

Index = Tensor | slice
ALL = slice(None)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one thread for one step of a model on this machine."""

    one: float
    """Seconds for a single row."""
    solo: float
    """Seconds for `SOLO` rows one after another."""
    group: Mapping[int, float]
    """Seconds for a group of rows side by side, by the size of the group; they do not depend on how many are live."""


def lanes_for(rows: Sequence[int], threads: int, times: StepTimes) -> int:
    """Choose the fastest layout: return how many rows lie side by side in a vector, or 0 for one after another.

    Rows one after another are shared by all threads; a group of rows side by side belongs to one thread. All rows give
    the same results either way.

    Args:
        rows: how many rows there are of each phase, because only rows of one phase can lie side by side.
        threads: how many threads there are.
        times: measured times of a step.
    """
    alone = sum(n // SOLO * times.solo + n % SOLO * times.one for n in rows) / threads
    if threads > 1:
        alone *= WAITING
    together = {n: own * -(-sum(-(-count // n) for count in rows) // threads) for n, own in times.group.items()}
    best = min(together, key=lambda lanes: together[lanes])
    return best if together[best] < alone else 0


def arranged(phase: Tensor, lanes: int) -> tuple[Index, Index]:
    """Return which row stands in each slot, and the slot in which each row is found.

    Rows of one phase form groups of their own. A row may stand in more than one slot, to fill its group. If all rows
    have the same phase, they stay in their order, without copies.
    """
    if (phase == phase[:1]).all():
        return ALL, ALL
    groups = []
    for rows in (torch.nonzero(phase == own)[:, 0] for own in phase.unique()):
        groups += [rows, rows[-1:].expand(-len(rows) % max(lanes, 1))]
    slots, own = torch.cat(groups), torch.empty_like(phase)
    own[slots] = torch.arange(len(slots))
    return slots, own
