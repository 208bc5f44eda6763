"""A model's state, taken apart into the tensors that engine.cpp keeps, and put together again.

The tensors are in the order of the plan's operations:

- A state space layer has its state r(B, H, N). In H3, the last keys r(B, taps - 1, H) come before it.
- A level with a coarser one inside has r(B, 2 p, H), where p is the stride: a ring of the last p inputs, with the input
  at position t in row t mod p, and then the pending outputs for the window under way.
- A model of whole pixels begins with its last tokens. Then come, for each layer, the last features that its taps read,
  if it has taps, and its state, which is one for each column if it runs down columns. The numbers that are kept of the
  pixel under way come last.
- A model of sound whose embedding reads several samples begins with the last tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.errors import UserError
from s4gen.models.axial import Axial, AxialState
from s4gen.models.blocks import Block, Skip, TappedState
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.h3 import H3, H3State
from s4gen.models.pixels import PixelModel, PixelState
from s4gen.models.pooling import PoolState
from s4gen.models.sashimi import Sashimi, SashimiState
from s4gen.models.taps import TapsState


def taken_apart(model: DensityModel, state: ModelState) -> list[Tensor]:
    """Return the tensors of a state as float32; they may share the memory of the state.

    Raises:
        UserError: a part stands at another position than the model, or the last tokens are not in the vocabulary.
    """
    if isinstance(model, PixelModel):
        layers = [*_pixels_apart(model, state)]
    else:
        layers = [_in_vocabulary(state.recent, model.bos)] if isinstance(state.recent, Tensor) else []
        for block, own in zip(model.blocks, state.blocks, strict=True):
            layers += (
                _apart(block, own, state.position) if isinstance(block, Sashimi) else _mixer_apart(own, state.position)
            )
    return [layer.float().contiguous() for layer in layers]


def rebuilt(model: DensityModel, position: Tensor, label: Tensor | tuple[()], layers: Iterable[Tensor]) -> ModelState:
    """Put the state of a model together from the tensors, for rows at `position` int64 (B,)."""
    left = iter(layers)
    recent = next(left).to(torch.int64) if model.config.model.recent else ()
    return ModelState(position, _blocks_together(model, position, left), label, recent)


def _blocks_together(model: DensityModel, position: Tensor, left: Iterator[Tensor]) -> tuple[Any, ...]:
    if isinstance(model, PixelModel):
        recent, begun = next(left).to(torch.int64), model.begun(position)
        blocks = [_block_together(block, begun, left) for block in model.blocks]
        return (PixelState(recent, next(left)), *blocks)
    return tuple(
        _together(block, position, left) if isinstance(block, Sashimi) else _block_together(block, position, left)
        for block in model.blocks
    )


def _pixels_apart(model: PixelModel, state: ModelState) -> Iterator[Tensor]:
    recent, kept = state.blocks[0]
    yield _in_vocabulary(recent, model.bos)
    begun = model.begun(state.position)
    for own in state.blocks[1:]:
        if isinstance(own, TappedState):
            _check_place(own.taps.position, begun)
            yield own.taps.last
        yield from _mixer_apart(own.mixer if isinstance(own, TappedState) else own, begun)
    yield kept


def _in_vocabulary(recent: Tensor, bos: int) -> Tensor:
    if not ((recent >= 0) & (recent <= bos)).all():
        raise UserError("the last tokens are none of the vocabulary; the state is damaged")
    return recent


def _check_place(own: Tensor, position: Tensor) -> None:
    if not torch.equal(own, position):
        raise UserError("a layer stands at another position than the model; the state is damaged")


def _mixer_apart(own: Any, position: Tensor) -> Iterator[Tensor]:
    """Yield the tensors of a mixer's state: one for a state space layer, two for H3, none for a block of taps alone."""
    if isinstance(own, AxialState):
        _check_place(own.position, position)
        yield own.ssm
    elif isinstance(own, tuple):
        yield from own
    else:
        yield own


def _block_together(block: nn.Module, position: Tensor, layers: Iterator[Tensor]) -> Any:
    """Put the state of a block together from the next tensors, for layers that are at `position`."""
    assert isinstance(block, Block)
    taps = None if block.taps is None else TapsState(position.clone(), next(layers))
    mixer: Any = ()
    if isinstance(block.mixer, Axial):
        mixer = AxialState(position.clone(), next(layers))
    elif isinstance(block.mixer, H3):
        mixer = H3State(next(layers), next(layers))
    elif not isinstance(block.mixer, Skip):
        mixer = next(layers)
    return mixer if taps is None else TappedState(taps, mixer)


def _apart(stack: Sashimi, state: SashimiState, position: Tensor) -> Iterator[Tensor]:
    """Yield the tensors of a level and of all that are coarser."""
    if not torch.equal(state.position, position):
        raise UserError("a level stands at another position than the model; the state is damaged")
    yield from state.blocks[: len(stack.down)]
    if stack.pool is not None and stack.inner is not None and state.coarser:
        (last, pending), inner = state.coarser
        stride = stack.pool.stride
        # The model keeps p - 1 inputs in order, the engine p in a ring, in which the next input overwrites this one.
        oldest = last.new_zeros(len(last), 1, last.shape[2])
        ring = _rolled(torch.cat((oldest, last), dim=1), -position)
        yield torch.cat((ring, pending), dim=1)
        yield from _apart(stack.inner, inner, position // stride)
    yield from state.blocks[len(stack.down) :]


def _together(stack: Sashimi, position: Tensor, layers: Iterator[Tensor]) -> SashimiState:
    """Invert `_apart` for a level and all that are coarser."""
    down = [next(layers) for _ in stack.down]
    coarser: tuple[PoolState, SashimiState] | tuple[()] = ()
    if stack.pool is not None and stack.inner is not None:
        ring, pending = next(layers).chunk(2, dim=1)
        last = _rolled(ring, position)[:, 1:]
        inner = _together(stack.inner, position // stack.pool.stride, layers)
        coarser = (PoolState(last.clone(), pending.clone()), inner)
    return SashimiState(position.clone(), (*down, *(next(layers) for _ in stack.up)), coarser)


def _rolled(x: Tensor, by: Tensor) -> Tensor:
    """Roll x r(B, p, H) along its second axis: row b of the result has x[b, (i + by[b]) mod p] at i."""
    stride = x.shape[1]
    index = (torch.arange(stride) + by[:, None]) % stride
    return x.gather(1, index[..., None].expand_as(x))
