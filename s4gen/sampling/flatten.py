"""Flattening: a converted model becomes a plan, which is a list of operations (see `plan`).

Each function yields the operations of one part of the model, in the order in which a step runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.axial import Axial
from s4gen.models.blocks import Block, GatedOutput, Skip
from s4gen.models.categorical import CategoricalHead
from s4gen.models.density import DensityModel
from s4gen.models.embedding import AudioEmbedding
from s4gen.models.h3 import H3
from s4gen.models.mixture import LOG_SCALE_GAIN, MixtureHead
from s4gen.models.norms import ScalarNorm
from s4gen.models.pixels import PixelModel
from s4gen.models.sashimi import Sashimi
from s4gen.models.ssm_layers import DiagonalStep, WoodburyStep
from s4gen.models.tokens import TokenModel
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.plan import (
    ALIGNMENT,
    SSM,
    AddKept,
    Channel,
    Clusters,
    Components,
    Down,
    Embed,
    Keep,
    Linear,
    Mixture,
    Neighbours,
    Norm,
    Operation,
    Pixel,
    Plan,
    Samples,
    Shift,
    Taps,
    Up,
    Where,
)


class NotFlatError(Exception):
    """Raised where the model has a part that no operation stands for; the message names it."""


def flatten(recurrent: RecurrentModel) -> Plan:
    """Return the plan of a converted model. Most of its tensors are the model's own, so it costs little memory.

    Raises:
        NotFlatError: the model has a layer that a plan does not know.
    """
    model = recurrent.stepper
    operations = list(_stem(model) if isinstance(model, PixelModel) else _embed(model))
    for i, block in enumerate(model.blocks):
        operations += _level(block, f"layer {i}") if isinstance(block, Sashimi) else _block(block, f"layer {i}")
    if isinstance(model.norm, nn.Identity):
        operations += _head(model.head, "x")
    else:
        operations += [_norm(model.norm), *_head(model.head, "h")]
    return Plan(tuple(operations), model.config.layout.vocab, model.bos)


@torch.no_grad()
def _embed(model: DensityModel) -> Iterator[Operation]:
    """Yield the embedding of a model whose stack runs once per token."""
    assert isinstance(model, TokenModel)
    embedding = model.embedding
    if isinstance(embedding, AdaptiveEmbedding):
        table = embedding(torch.arange(embedding.bounds[-1], device=embedding.tables[0].device))
        # Clusters with narrow vectors are looked up through a projection. Done here once, it costs steps nothing.
        yield Embed(table, table[:0], table[:0], 1, len(table))
        return
    if isinstance(embedding, nn.Embedding):
        table = embedding.weight
        yield Embed(table, table[:0], table[:0], 1, len(table))
        return
    value = embedding.value.weight
    label = value[:0] if embedding.label is None else embedding.label.weight
    if isinstance(embedding, AudioEmbedding):
        yield Embed(value, value[:0], label, 1, embedding.layout.vocab)
        if embedding.samples is not None:
            amplitude = embedding.amplitude(torch.arange(embedding.bos + 1, device=value.device))
            yield Samples(amplitude, embedding.samples.in_features)
            yield Linear(embedding.samples.weight, value.new_zeros(len(embedding.samples.weight)), "h", "x")
        return
    layout = embedding.layout
    position = torch.arange(layout.length, device=value.device)
    yield Embed(value, embedding.where(position), label, layout.channels, layout.levels)


def _stem(model: PixelModel) -> Iterator[Operation]:
    """Yield what stands before the blocks of a model whose stack runs once per pixel."""
    stem, head, layout, row = model.stem, model.head, model.stem.layout, model.stem.row.weight
    kept: tuple[int, ...] = (head.kept,)
    if isinstance(head, MixtureHead):
        kept = (head.channels, *[head.components] * sum(head.sizes))
    value, label = (row[:0] if table is None else table.weight for table in (stem.value, stem.label))
    yield Pixel(stem.raster, layout.channels, layout.levels, stem.history, kept, len(label))
    yield Where(row, stem.column.weight, value, label)
    yield Neighbours(stem.offsets, layout.channels, isinstance(head, MixtureHead))
    yield _linear(stem.linear, "h", "x")


def _level(stack: Sashimi, name: str) -> Iterator[Operation]:
    """Yield a level of a multi-scale stack, with all coarser levels inside of it."""
    for block in stack.down:
        yield from _block(block, name)
    if stack.pool is None or stack.inner is None:
        yield Keep(stack.d_model)
    else:
        stride = stack.pool.stride
        yield Down(stride, stack.d_model)
        yield Linear(stack.pool.down.weight, stack.pool.down.bias, "window", "x", parts=stride)
        yield from _level(stack.inner, name)
        yield Linear(stack.pool.up.weight, stack.pool.up.bias, "x", "pending", parts=stride)
        yield Up(stack.d_model)
    for block in stack.up:
        yield from _block(block, name)
    yield AddKept(stack.d_model)


def _block(block: nn.Module, name: str) -> Iterator[Operation]:
    if not isinstance(block, Block):
        raise NotFlatError(f"{name} is of type {type(block).__name__}")
    # A norm before a sublayer reads x and leaves its result in h, which the sublayer then reads. A norm behind it works
    # on x itself, and the sublayer reads x.
    source = "h" if block.norm_first else "x"
    if block.norm_first:
        yield _norm(block.norm)
    if block.taps is not None:
        yield Taps(block.taps.weight, block.taps.raster.width)
    if isinstance(block.mixer, H3):
        yield from _h3(block.mixer, name, source)
    else:
        yield replace(_ssm(block.mixer, name), tapped=block.taps is not None, source=source)
        if not isinstance(block.output, GatedOutput):
            raise NotFlatError(f"{name} has an output of type {type(block.output).__name__}")
        yield _linear(block.output.linear, "g", "x", "glu")
    if not block.norm_first:
        yield _norm(block.norm, "x")
    if block.feed_forward is not None:
        if block.norm_first:
            yield _norm(block.feed_forward.norm)
        yield _linear(block.feed_forward.up, source, "g", "gelu")
        yield _linear(block.feed_forward.down, "g", "x")
        if not block.norm_first:
            yield _norm(block.feed_forward.norm, "x")


@torch.no_grad()
def _norm(norm: nn.Module, target: str = "h") -> Operation:
    if isinstance(norm, ScalarNorm):
        return Norm(norm.s.expand(norm.d_model), norm.s.new_zeros(norm.d_model), 0.0, norm.m, target)
    assert isinstance(norm, nn.LayerNorm)
    return Norm(norm.weight, norm.bias, norm.eps, None, target)


def _linear(linear: Any, source: str, target: str, epilogue: str = "") -> Operation:
    return Linear(linear.weight, linear.bias, source, target, epilogue)


@torch.no_grad()
def _head(head: nn.Module, source: str) -> Iterator[Operation]:
    if isinstance(head, MixtureHead):
        yield from _mixture(head)
    elif isinstance(head, CategoricalHead):
        yield from _channels(head)
    elif isinstance(head, AdaptiveSoftmax):
        yield from _adaptive(head, source)
    else:
        yield _linear(head, source, "logits")


def _mixture(head: MixtureHead) -> Iterator[Operation]:
    """Yield the mixture's head; its linear layer has its outputs in another order than the model's.

    The model's outputs stand component by component. The engine works on all components at once, so here those of one
    kind stand together: all weights, then all means, and so on.
    """
    gain = torch.ones(sum(head.sizes), 1)
    gain[1 + head.channels :][: head.channels] = LOG_SCALE_GAIN  # a power of two, so the product is exact
    weight, bias = (
        (tensor.unflatten(0, (head.components, -1)).transpose(0, 1) * gain.to(tensor).view(-1, *[1] * tensor.dim()))
        for tensor in (head.linear.weight, head.linear.bias)
    )
    yield Linear(weight.flatten(0, 1), bias.flatten(), "h", "g")
    yield Components(head.components, head.channels)
    yield Mixture(head.components, head.channels, head.levels)


def _channels(head: CategoricalHead) -> Iterator[Operation]:
    weight = head.head.weight
    if head.value is None:
        yield Channel(weight[:0], weight[:0], weight.shape[1])
    else:
        yield Channel(head.channel.weight, head.value.weight, weight.shape[1])
        yield _linear(head.linear, "h", "g", "added gelu")
    yield _linear(head.head, "g", "logits")
    yield Clusters((0,), (head.levels,))


def _adaptive(head: AdaptiveSoftmax, source: str) -> Iterator[Operation]:
    offsets: list[int] = []
    counts: list[int] = []
    for projection, table, bias in head.parts():
        offset = offsets[-1] + -(-counts[-1] // ALIGNMENT) * ALIGNMENT if offsets else 0
        if projection is not None:
            yield Linear(projection, projection.new_zeros(len(projection)), source, "g")
        yield Linear(table, bias, source if projection is None else "g", "logits", offset=offset)
        offsets.append(offset)
        counts.append(len(table))
    yield Clusters(tuple(offsets), tuple(counts))


def _h3(mixer: H3, name: str, source: str) -> Iterator[Operation]:
    yield Linear(mixer.qkv.weight, mixer.qkv.bias, source, "g", parts=3)
    yield Shift(mixer.shift)
    yield replace(_ssm(mixer.ssm, name), gated=True)
    yield _linear(mixer.out, "g", "x")


def _ssm(mixer: Any, name: str) -> SSM:
    if isinstance(mixer, Axial):
        return replace(_ssm(mixer.layer, name), axis=mixer.axis, lanes=mixer.lanes)
    if isinstance(mixer, Skip):
        none = mixer.D.new_zeros(len(mixer.D), 0)
        return SSM(none, none, none, mixer.D, none[None][:0], none[None][:0])
    if isinstance(mixer, DiagonalStep):
        none = mixer.B_bar.new_zeros(0, *mixer.B_bar.shape)
        return SSM(_diagonal(mixer.A_bar), mixer.B_bar, mixer.C_bar, mixer.D, none, none)
    if isinstance(mixer, WoodburyStep):
        a, p, q, B_bar, C_bar = mixer.constants()
        return SSM(_diagonal(a), B_bar, C_bar, mixer.D, p, q)
    raise NotFlatError(f"{name} is of type {type(mixer).__name__}")


def _diagonal(multiplier: Tensor) -> Tensor:
    """Undo `realform.multiplier`, r(2, H, N): return a diagonal r(H, N), real parts, then imaginary parts."""
    n = multiplier.shape[-1] // 2
    return torch.cat((multiplier[0][:, :n], multiplier[1][:, n:]), dim=-1)
