"""A model's state as the tensors that engine.cpp keeps, in the order of a plan's operations, and back.

Of each state space layer r(B, H, N), as it is, and before it, of H3, the keys r(B, taps - 1, H). Of each level with a
coarser one r(B, 2 p, H): a ring of the last p inputs, the one at place t in row t mod p, and what is pending for the
window under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.errors import UserError
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.h3 import H3, H3State
from s4gen.models.pooling import PoolState
from s4gen.models.sashimi import Sashimi, SashimiState


def taken_apart(model: DensityModel, state: ModelState) -> list[Tensor]:
    """The tensors, float32, in memory of their own or the state's.

    Raises:
        UserError: a level stands at another place than the model's tells.
    """
    layers: list[Tensor] = []
    for block, own in zip(model.blocks, state.blocks, strict=True):
        if isinstance(block, Sashimi):
            layers += _apart(block, own, state.place)
        else:
            layers += own if isinstance(own, H3State) else [own]
    return [layer.float().contiguous() for layer in layers]


def rebuilt(model: DensityModel, place: Tensor, layers: Iterable[Tensor]) -> tuple[Any, ...]:
    """The states of the model's blocks from the tensors, with the model at `place` int64 (B,)."""
    left = iter(layers)

    def of(block: nn.Module) -> Any:
        if isinstance(block, Sashimi):
            return _together(block, place, left)
        return H3State(next(left), next(left)) if isinstance(block.mixer, H3) else next(left)

    return tuple(of(block) for block in model.blocks)


def _apart(stack: Sashimi, state: SashimiState, place: Tensor) -> Iterator[Tensor]:
    if not torch.equal(state.place, place):
        raise UserError("a level stands at another place than the model; the state is damaged")
    yield from state.blocks[: len(stack.down)]
    if stack.pool is not None and stack.inner is not None and state.coarser:
        (last, pending), inner = state.coarser
        stride = stack.pool.stride
        oldest = last.new_zeros(len(last), 1, last.shape[2])  # overwritten before it is read
        ring = _rolled(torch.cat((oldest, last), dim=1), -place)
        yield torch.cat((ring, pending), dim=1)
        yield from _apart(stack.inner, inner, place // stride)
    yield from state.blocks[len(stack.down) :]


def _together(stack: Sashimi, place: Tensor, layers: Iterator[Tensor]) -> SashimiState:
    down = [next(layers) for _ in stack.down]
    coarser: tuple[PoolState, SashimiState] | tuple[()] = ()
    if stack.pool is not None and stack.inner is not None:
        ring, pending = next(layers).chunk(2, dim=1)
        last = _rolled(ring, place)[:, 1:]
        inner = _together(stack.inner, place // stack.pool.stride, layers)
        coarser = (PoolState(last.clone(), pending.clone()), inner)
    return SashimiState(place.clone(), (*down, *(next(layers) for _ in stack.up)), coarser)


def _rolled(x: Tensor, by: Tensor) -> Tensor:
    """x r(B, p, H) -> row b's x[(i + by_b) mod p] at i."""
    stride = x.shape[1]
    index = (torch.arange(stride) + by[:, None]) % stride
    return x.gather(1, index[..., None].expand_as(x))
