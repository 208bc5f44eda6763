"""A converted model as a plan: a flat list of operations with their constants, for engines that run outside of PyTorch.

There are four buffers: the residual stream x, two scratch vectors h and g, and the logits. One step of a model is the
operations in their order, once:

    Embed    x = value[token] + place[place] + label[label]
    Norm     h = layer norm of x
    SSM      state, g = one step of the recurrence on h; then GELU
    Shift    of g = q, k, v, one after another: v *= convolution of k
    SSM      state, g = q times one step of the recurrence on v
    Linear   g = .. or x += .. or logits = weight h (or g) + bias; then GELU or GLU
    Clusters log-probabilities from the logits of an adaptive softmax

Of several time scales, those between Down and Up run only in steps that fill a window:

    Keep     kept = x
    Down     window[phase] = x, kept = x + pending[phase]; unless this fills the window, go on with Up
    Linear   x = weight window + bias, pending = weight x + bias
    Up       x = kept
    AddKept  x += kept
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.blocks import Block, GatedOutput
from s4gen.models.embedding import AudioEmbedding, ImageEmbedding
from s4gen.models.h3 import H3
from s4gen.models.sashimi import Sashimi
from s4gen.models.ssm_layers import DiagonalStep, WoodburyStep
from s4gen.models.tokens import TokenModel
from s4gen.sampling.convert import RecurrentModel

_ALIGNMENT = 16
"""Of parts of the logits."""


class NotFlatError(Exception):
    """The model has a part that no operation stands for; the message names it."""


@dataclass(frozen=True)
class Embed:
    """x = value[row] + place[place mod period] + label[label], the row being channel * levels + token.

    A bos that is not among the tokens has a row of its own, the last.
    """

    value: Tensor  # r(channels * levels, D), one row more for such a bos
    place: Tensor  # r(period, D), period 0 without it
    label: Tensor  # r(classes, D), no classes without it
    channels: int
    levels: int


@dataclass(frozen=True)
class Norm:
    """h = layer norm of x."""

    weight: Tensor  # r(D)
    bias: Tensor  # r(D)
    eps: float


@dataclass(frozen=True)
class SSM:
    """s' = diag(a) s - sum_r p_r (q_r . s) + B u and y = C . s' + D u; vectors in real form, see ssm.realform.

    u = h and g = GELU(y); or, gated, u = v and g = q y, of g = q, k, v.
    """

    a: Tensor  # r(H, N): real parts, then imaginary parts
    B: Tensor  # r(H, N)
    C: Tensor  # r(H, N)
    D: Tensor  # r(H)
    p: Tensor  # r(R, H, N), R = 0 for a diagonal
    q: Tensor  # r(R, H, N)
    gated: bool = False


@dataclass(frozen=True)
class Shift:
    """v *= sum_i taps[:, i] (k of i inputs ago), of g = q, k, v."""

    taps: Tensor  # r(H, taps)


@dataclass(frozen=True)
class Linear:
    """`target` (= or +=) epilogue(weight source + bias)."""

    weight: Tensor  # r(out, in)
    bias: Tensor  # r(out)
    source: str
    """h or g; window or x, between two levels."""
    target: str
    """g or logits, which it overwrites, or x, to which it adds; between two levels it overwrites x or pending."""
    epilogue: str = ""
    """Nothing, gelu, or glu: values in the first half of the outputs, gates in the second."""
    offset: int = 0
    """Where in the logits the outputs begin, a multiple of 16."""
    parts: int = 1
    """Of a window the inputs, and of all else the outputs, consist of so many vectors, one after another."""


@dataclass(frozen=True)
class Clusters:
    """Logits of an adaptive softmax -> log-probabilities of the tokens, at the front of the logits.

    Part i of the vocabulary lies at `offsets[i]`, and has `counts[i]` logits. Behind the tokens of part 0 there are the
    logits of the clusters, which are the other parts.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Keep:
    """Keep x, r(width), for the matching AddKept."""

    width: int


@dataclass(frozen=True)
class Down:
    """x takes its place in a window of `stride` inputs; kept = x + what is pending there.

    From here to the matching Up stands the coarser level, which runs where the window is full. Of a level inside n
    others the input at the model's place t is number t // (the product of their strides).
    """

    stride: int
    width: int


@dataclass(frozen=True)
class Up:
    """x = what the matching Down kept, and keeps on keeping."""

    width: int


@dataclass(frozen=True)
class AddKept:
    """x += what the matching Keep, or Down, has kept."""

    width: int


Operation = Embed | Norm | SSM | Shift | Linear | Clusters | Keep | Down | Up | AddKept


@dataclass(frozen=True)
class Plan:
    """One step of a model."""

    operations: tuple[Operation, ...]
    vocab: int
    bos: int

    @property
    def period(self) -> int:
        """Steps after which the same operations are due again, levels being nested."""
        return math.prod(operation.stride for operation in self.operations if isinstance(operation, Down))


def flatten(recurrent: RecurrentModel) -> Plan:
    """The plan of a converted model; it shares the model's tensors.

    Raises:
        NotFlatError: a layer is not one that a plan knows.
    """
    model = recurrent.stepper
    if not isinstance(model, TokenModel):
        raise NotFlatError("the model runs once per pixel")
    operations = [_embed(model.embedding)]
    for i, block in enumerate(model.blocks):
        operations += _level(block, f"layer {i}") if isinstance(block, Sashimi) else _block(block, f"layer {i}")
    operations += [_norm(model.norm), *_head(model.head)]
    return Plan(tuple(operations), model.config.layout.vocab, model.bos)


@torch.no_grad()
def _embed(embedding: ImageEmbedding | AdaptiveEmbedding | AudioEmbedding) -> Operation:
    if isinstance(embedding, AdaptiveEmbedding):
        table = embedding(torch.arange(embedding.bounds[-1], device=embedding.tables[0].device))
        return Embed(table, table[:0], table[:0], 1, len(table))
    value = embedding.value.weight
    if isinstance(embedding, AudioEmbedding):
        label = value[:0] if embedding.label is None else embedding.label.weight
        return Embed(value, value[:0], label, 1, embedding.layout.vocab)
    layout = embedding.layout
    place = torch.arange(layout.length, device=value.device)
    return Embed(value, embedding.where(place), value[:0], layout.channels, layout.levels)


def _level(stack: Sashimi, name: str) -> Iterator[Operation]:
    """A level and all that are coarser."""
    for block in stack.down:
        yield from _block(block, name)
    if stack.pool is None or stack.inner is None:
        yield Keep(_width(stack))
    else:
        stride = stack.pool.stride
        yield Down(stride, _width(stack))
        yield Linear(stack.pool.down.weight, stack.pool.down.bias, "window", "x", parts=stride)
        yield from _level(stack.inner, name)
        yield Linear(stack.pool.up.weight, stack.pool.up.bias, "x", "pending", parts=stride)
        yield Up(_width(stack))
    for block in stack.up:
        yield from _block(block, name)
    yield AddKept(_width(stack))


def _width(stack: Sashimi) -> int:
    return next(len(module.weight) for module in stack.up.modules() if isinstance(module, nn.LayerNorm))


def _block(block: nn.Module, name: str) -> Iterator[Operation]:
    if not isinstance(block, Block):
        raise NotFlatError(f"{name} is of type {type(block).__name__}")
    yield _norm(block.norm)
    if isinstance(block.mixer, H3):
        yield from _h3(block.mixer, name)
    else:
        yield _ssm(block.mixer, name)
        if not isinstance(block.output, GatedOutput):
            raise NotFlatError(f"{name} has an output of type {type(block.output).__name__}")
        yield _linear(block.output.linear, "g", "x", "glu")
    if block.feed_forward is not None:
        yield _norm(block.feed_forward.norm)
        yield _linear(block.feed_forward.up, "h", "g", "gelu")
        yield _linear(block.feed_forward.down, "g", "x")


def _norm(norm: nn.LayerNorm) -> Operation:
    return Norm(norm.weight, norm.bias, norm.eps)


def _linear(linear: nn.Linear, source: str, target: str, epilogue: str = "") -> Operation:
    return Linear(linear.weight, linear.bias, source, target, epilogue)


@torch.no_grad()
def _head(head: nn.Linear | AdaptiveSoftmax) -> Iterator[Operation]:
    if isinstance(head, nn.Linear):
        yield _linear(head, "h", "logits")
        return
    offsets: list[int] = []
    counts: list[int] = []
    for projection, table, bias in head.parts():
        offset = offsets[-1] + -(-counts[-1] // _ALIGNMENT) * _ALIGNMENT if offsets else 0
        if projection is not None:
            yield Linear(projection, projection.new_zeros(len(projection)), "h", "g")
        yield Linear(table, bias, "h" if projection is None else "g", "logits", offset=offset)
        offsets.append(offset)
        counts.append(len(table))
    yield Clusters(tuple(offsets), tuple(counts))


def _h3(mixer: H3, name: str) -> Iterator[Operation]:
    yield Linear(mixer.qkv.weight, mixer.qkv.bias, "h", "g", parts=3)
    yield Shift(mixer.shift)
    yield replace(_ssm(mixer.ssm, name), gated=True)
    yield _linear(mixer.out, "g", "x")


def _ssm(mixer: Any, name: str) -> SSM:
    if isinstance(mixer, DiagonalStep):
        none = mixer.B_bar.new_zeros(0, *mixer.B_bar.shape)
        return SSM(_diagonal(mixer.A_bar), mixer.B_bar, mixer.C_bar, mixer.D, none, none)
    if isinstance(mixer, WoodburyStep):
        a, p, q, B_bar, C_bar = mixer.constants()
        return SSM(_diagonal(a), B_bar, C_bar, mixer.D, p, q)
    raise NotFlatError(f"{name} is of type {type(mixer).__name__}")


def _diagonal(multiplier: Tensor) -> Tensor:
    """`realform.multiplier` r(2, H, N) -> r(H, N), real parts then imaginary ones."""
    n = multiplier.shape[-1] // 2
    return torch.cat((multiplier[0][:, :n], multiplier[1][:, n:]), dim=-1)
