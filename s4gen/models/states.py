"""Operations on states as values, whatever structure holds their tensors.

A state is a tensor, a number, or a tuple (named or not) of states; `()` holds nothing. The first axis of every tensor
is the batch, so a row of a state is that row of all its tensors. Everything in s4gen that looks inside a state without
knowing whose it is goes through this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from s4gen.config import DensityConfig

S = TypeVar("S")

_ROWS = 4
"""With multiples of this number of rows, PyTorch's matrix products on a CPU give each row the same bits however many
rows there are. (Measured: with other small numbers they do not.)"""
_SMALL_PRODUCT = 400
"""PyTorch computes a batched product of fewer multiplications than this in another way, and rounds differently."""

_LEAST = 16
"""Rows of fewer tokens, counted at the coarsest level or in pixels, make such small products."""


def paths(state: Any, path: str = "") -> Iterator[tuple[str, Tensor | int]]:
    """Yield every tensor and number of a state, in order, with its path, such as `blocks.0.keys`."""
    if not isinstance(state, tuple):
        yield path, state
        return
    for i, part in enumerate(state):
        name = getattr(state, "_fields", range(len(state)))[i]
        yield from paths(part, f"{path}.{name}" if path else f"{name}")


def leaves(state: Any) -> Iterator[Tensor | int]:
    """Yield every tensor and number of a state, in order."""
    if isinstance(state, tuple):
        for part in state:
            yield from leaves(part)
    else:
        yield state


def rebuilt(state: S, values: Iterator[Any]) -> S:
    """Return a state of the same structure with other leaves, which are taken from `values` in order."""
    return _rebuilt(state, values)


def _rebuilt(state: Any, values: Iterator[Any]) -> Any:
    if not isinstance(state, tuple):
        return next(values)
    return _of_parts(state, [_rebuilt(part, values) for part in state])


def _of_parts(state: Any, parts: list[Any]) -> Any:
    """Make a tuple of the parts, of the type of `state`, which may have named fields."""
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def tensors(state: Any) -> list[Tensor]:
    """List every tensor of a state, in order."""
    return [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], state: S) -> S:
    """Apply `function` to every tensor of a state; numbers stay as they are."""
    return rebuilt(state, (function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(state)))


def copied(state: S) -> S:
    """Copy a state: the copy shares no memory, and its tensors are laid out as a step leaves them."""
    return map_tensors(lambda x: x.clone(memory_format=torch.contiguous_format), state)


def contiguous(state: S) -> S:
    """Lay out the tensors as a step leaves them: steps are faster then, and compile only once."""
    return map_tensors(Tensor.contiguous, state)


def detached(state: S) -> S:
    """Detach a state, so that no gradient flows back through it."""
    return map_tensors(Tensor.detach, state)


def chosen_rows(state: S, rows: Tensor) -> S:
    """Copy the rows int64 (R,) of a state, in that order; a row may be chosen more than once."""
    return map_tensors(lambda x: x[rows.to(x.device)], state)


def joined(states: Sequence[S]) -> S:
    """Join several states into one with all their rows; the numbers in them must be equal."""
    columns = zip(*(leaves(state) for state in states), strict=True)
    joint = (torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in columns)
    return rebuilt(states[0], joint)


def where_rows(rows: Tensor, new: S, old: S) -> S:
    """Take a row from `new` where rows bool (B,) is true, and from `old` elsewhere."""
    return _where_rows(rows, new, old)


def _where_rows(rows: Tensor, new: Any, old: Any) -> Any:
    # This does not use `leaves`: compiled steps run through it, and torch.compile does not follow such iterators.
    if not isinstance(new, tuple):  # what no row has changed is the same object in both; so is a number
        return old if new is old or not isinstance(new, Tensor) else _where(rows, new, old)
    return _of_parts(new, [_where_rows(rows, a, b) for a, b in zip(new, old, strict=True)])


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (new.dim() - 1)), new, old)


def padded_rows(n: int, multiple: int, device: torch.device | None = None) -> Tensor:
    """Return rows 0 .. n - 1, and then n - 1 again until their number is a multiple of `multiple`: int64 (R,)."""
    return torch.arange(-(-n // multiple) * multiple, device=device).clamp_max(n - 1)


def row_multiple(d_state: int) -> int:
    """Return the number of which rows must be a multiple, so that no product with an N x N matrix is a small one."""
    return _ROWS * -(-_SMALL_PRODUCT // (_ROWS * d_state**2))


def least_length(config: DensityConfig) -> int:
    """Return the number of tokens that rows must have so that no product along them is a small one."""
    return _LEAST * math.prod(config.model.pool) * config.tokens_per_input


def named(state: Any) -> dict[str, Tensor]:
    """Return every leaf as a tensor by a name with its index, in a form that a file can hold."""
    return {f"state.{i}": torch.as_tensor(leaf) for i, leaf in enumerate(leaves(state))}


def from_named(template: S, values: Mapping[str, Tensor], rows: int, any_precision: bool = False) -> S:
    """Invert `named`: put a state of `rows` rows together, in the structure of the initial state `template`.

    With `any_precision`, numbers may be in another than those of the template, as autocast leaves them.

    Raises:
        ValueError: the values are not those of such a state.
    """

    def value(i: int, expected: Tensor | int) -> Tensor | int:
        found = values.get(f"state.{i}")
        like = torch.as_tensor(expected)
        # An axis of size 0 in the template is that of a cache, which starts empty and may have any size by now.
        shape = (rows, *like.shape[1:]) if like.ndim else ()
        fits = found is not None and found.ndim == like.ndim
        if found is not None and found.dtype != like.dtype:
            fits = fits and any_precision and found.dtype.is_floating_point and like.dtype.is_floating_point
        if found is None or not fits or any(want not in (0, got) for want, got in zip(shape, found.shape, strict=True)):
            raise ValueError(f"part {i} of the state is not that of {rows} rows")
        return found if isinstance(expected, Tensor) else int(found)

    return rebuilt(template, (value(i, leaf) for i, leaf in enumerate(leaves(template))))
