"""A model's state as the tensors that engine.cpp keeps, in the order of a plan's operations, and back.

Of each state space layer r(B, H, N), as it is, and before it, of H3, the keys r(B, taps - 1, H). Of each level with a
coarser one r(B, 2 p, H): a ring of the last p inputs, the one at position t in row t mod p, and what is pending for the
window under way. Of whole pixels the last tokens come first, then of each layer the last features that its taps read,
if any, and its state, of all columns where it has one for each; what is kept of the pixel under way comes last. Of
sound, the last tokens come first where the embedding reads them.
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
    """The tensors, float32, in memory of their own or the state's.

    Raises:
        UserError: a part stands at another position than the model's tells, or the last tokens are none.
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
    """Make the state of the model, which is at `position` int64 (B,), from the tensors."""
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
    """Of a state space layer, H3, or none: a state without tensors."""
    if isinstance(own, AxialState):
        _check_place(own.position, position)
        yield own.ssm
    elif isinstance(own, tuple):
        yield from own
    else:
        yield own


def _block_together(block: nn.Module, position: Tensor, layers: Iterator[Tensor]) -> Any:
    """The state of a block whose layers are at `position`."""
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
    if not torch.equal(state.position, position):
        raise UserError("a level stands at another position than the model; the state is damaged")
    yield from state.blocks[: len(stack.down)]
    if stack.pool is not None and stack.inner is not None and state.coarser:
        (last, pending), inner = state.coarser
        stride = stack.pool.stride
        oldest = last.new_zeros(len(last), 1, last.shape[2])  # overwritten before it is read
        ring = _rolled(torch.cat((oldest, last), dim=1), -position)
        yield torch.cat((ring, pending), dim=1)
        yield from _apart(stack.inner, inner, position // stride)
    yield from state.blocks[len(stack.down) :]


def _together(stack: Sashimi, position: Tensor, layers: Iterator[Tensor]) -> SashimiState:
    down = [next(layers) for _ in stack.down]
    coarser: tuple[PoolState, SashimiState] | tuple[()] = ()
    if stack.pool is not None and stack.inner is not None:
        ring, pending = next(layers).chunk(2, dim=1)
        last = _rolled(ring, position)[:, 1:]
        inner = _together(stack.inner, position // stack.pool.stride, layers)
        coarser = (PoolState(last.clone(), pending.clone()), inner)
    return SashimiState(position.clone(), (*down, *(next(layers) for _ in stack.up)), coarser)


def _rolled(x: Tensor, by: Tensor) -> Tensor:
    """x r(B, p, H) -> row b's x[(i + by_b) mod p] at i."""
    stride = x.shape[1]
    index = (torch.arange(stride) + by[:, None]) % stride
    return x.gather(1, index[..., None].expand_as(x))
