"""States as values: their tensors copied, chosen by row, joined and named, whatever the structure around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


def leaves(state: Any) -> Iterator[Tensor | int]:
    """Every tensor and number of a state, in order."""
    if isinstance(state, tuple):
        for part in state:
            yield from leaves(part)
    else:
        yield state


def rebuilt(state: S, values: Iterator[Any]) -> S:
    """A state of the same structure around other leaves."""
    return _rebuilt(state, values)


def _rebuilt(state: Any, values: Iterator[Any]) -> Any:
    if not isinstance(state, tuple):
        return next(values)
    parts = [_rebuilt(part, values) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def tensors(state: Any) -> list[Tensor]:
    """Every tensor of a state, in order."""
    return [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], state: S) -> S:
    """The same state with `function` of every tensor in its place; numbers stay as they are."""
    return rebuilt(state, (function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(state)))


def copied(state: S) -> S:
    """A copy that shares no memory, its tensors laid out as a step leaves them."""
    return map_tensors(lambda x: x.clone(memory_format=torch.contiguous_format), state)


def chosen_rows(state: S, rows: Tensor) -> S:
    """The rows int64 (R,) of a state, in that order; a row may be chosen more than once. A copy."""
    return map_tensors(lambda x: x[rows.to(x.device)], state)


def joined(states: Sequence[S]) -> S:
    """The rows of several states, one after another; their numbers must be equal."""
    columns = zip(*(leaves(state) for state in states), strict=True)
    joint = (torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in columns)
    return rebuilt(states[0], joint)


def named(state: Any) -> dict[str, Tensor]:
    """Every leaf by its number, numbers as tensors: what a file can hold."""
    return {f"state.{i}": torch.as_tensor(leaf) for i, leaf in enumerate(leaves(state))}


def from_named(template: S, values: Mapping[str, Tensor], rows: int) -> S:
    """What `named` took apart, in the structure of an initial state.

    Raises:
        ValueError: the values are not those of `rows` rows of such a state.
    """

    def value(i: int, expected: Tensor | int) -> Tensor | int:
        found = values.get(f"state.{i}")
        like = torch.as_tensor(expected)
        # A cache starts with room for nothing: there any size goes. The first axis is the batch.
        shape = (rows, *like.shape[1:]) if like.ndim else ()
        fits = found is not None and found.dtype == like.dtype and found.ndim == like.ndim
        if found is None or not fits or any(want not in (0, got) for want, got in zip(shape, found.shape, strict=True)):
            raise ValueError(f"part {i} of the state is not that of {rows} rows")
        return found if isinstance(expected, Tensor) else int(found)

    return rebuilt(template, (value(i, leaf) for i, leaf in enumerate(leaves(template))))
