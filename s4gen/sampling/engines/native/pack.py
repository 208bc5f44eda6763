"""A plan as bytes for engine.cpp: a header, records of a fixed size, then tensors at multiples of 64 bytes.

format.h describes the same bytes from the other side. Tensors lie in the order in which the engine reads them:

- Weights of linear layers: outputs in blocks of 16, these in groups of four, and inputs in parts of 128, so
  [in / 128][out / 64][128][4][16]. Two inputs in bf16, and four in int8, share a word of 32 bits, which for int8 makes
  [in / 128][out / 64][128 / 4][4][16][4].
- Coefficients of state space layers: [heads / 16][mode][coefficient][16].
- Taps of a shift, and taps on the pixels around: [tap][heads].

A last block that is not full is filled up with zeros. This holds for each vector by itself where several stand one
after another: those of a window, those that are pending, q, k and v, and those that are kept of a pixel.
"""

from __future__ import annotations

import struct

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.sampling.plan import (
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

WIDTH = 16
DEPTH = 128
GROUP = 4
WEIGHTS = ("fp32", "bf16", "int8")
_ALIGNMENT = 64
_FAR = 1e30
"""An edge that is, in units of any scale, beyond all values from -1 to 1, and is still finite."""
_HEADER = struct.Struct("<8s4IQ32x")
_RECORD = struct.Struct("<12If3I4Q24xI4x")
_PLACES = {"x": 0, "h": 1, "g": 2, "logits": 3, "window": 4, "pending": 5, "kept": 6}
_EMBED, _NORM, _SSM, _LINEAR, _CLUSTERS, _SHIFT, _SAMPLES, _DOWN, _UP, _KEEP, _ADD_KEPT = range(11)
_PIXEL, _WHERE, _NEIGHBOURS, _TAPS, _COMPONENTS, _MIXTURE, _CHANNEL = range(11, 18)
_STORE, _GELU, _ADD, _GLU_ADD, _GATE, _GELU_SUM, _ADD_GELU = range(7)
_AXES = {"raster": 0, "row": 1, "column": 2}


def pack(plan: Plan, weights: str = "fp32") -> Tensor:
    """Return the bytes of a plan, uint8 (n,) on the CPU.

    Args:
        plan: the plan to be packed.
        weights: the format of the weights of linear layers: fp32, bf16 (rounded to nearest), or int8 (each output's
            weights scaled by the largest of them). Everything else stays float32.
    """
    records = [_record(operation, weights) for operation in plan.operations]
    at = _HEADER.size + len(records) * _RECORD.size
    heads, places = [], []
    for operation, (numbers, eps, own) in zip(plan.operations, records, strict=True):
        offsets = []
        for tensor in own:
            offsets.append(at)
            at += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        offset = operation.offset if isinstance(operation, Linear) else 0
        height, width = operation.raster if isinstance(operation, Pixel) else (0, 0)
        axis = _AXES[operation.axis] if isinstance(operation, SSM) else 0
        pointers = (*offsets, *[0] * (4 - len(offsets)))
        heads.append(_RECORD.pack(*numbers, eps, offset, height, width, *pointers, axis))
        places += [*zip(offsets, own, strict=True)]
    header = _HEADER.pack(b"s4plan", 2, len(records), plan.vocab, plan.bos, at)
    front = torch.frombuffer(bytearray(header + b"".join(heads)), dtype=torch.uint8)
    packed = torch.zeros(at, dtype=torch.uint8)
    packed[: len(front)] = front
    # For a large model every copy of the weights counts. There are two of each tensor, one here and one in `packed`.
    for offset, tensor in places:
        packed[offset : offset + tensor.nbytes] = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return packed


Record = tuple[tuple[int, ...], float, tuple[Tensor, ...]]
"""Twelve integers (see `_numbers`), eps, and the tensors of an operation, at most four."""


def _numbers(
    kind: int,
    source: str,
    target: str,
    epilogue: int,
    n_in: int,
    n_out: int,
    modes: int = 0,
    rank: int = 0,
    weights: int = 0,
    channels: int = 0,
    levels: int = 0,
    period: int = 0,
) -> tuple[int, ...]:
    """Return the integers of a record in the order of the struct `Op` in format.h, which says what each one means."""
    head = (kind, _PLACES[source], _PLACES[target], epilogue, n_in, n_out)
    return (*head, modes, rank, weights, channels, levels, period)


def _record(operation: Operation, weights: str) -> Record:
    """Return the fields of the record of an operation."""
    match operation:
        case Embed(value, place, label, channels, levels):
            width, period, classes = value.shape[1], len(place), len(label)
            sizes = (_EMBED, "x", "x", _STORE, width, width, classes)
            numbers = _numbers(*sizes, channels=channels, levels=levels, period=period)
            return numbers, 0.0, (_columns(value), _columns(place), _columns(label))
        case Norm(weight, bias, eps, shift, target):
            tensors = (_columns(weight), _columns(bias), *([] if shift is None else [_columns(shift)]))
            numbers = _numbers(_NORM, "x", target, _STORE, len(weight), len(weight), modes=shift is not None)
            return numbers, eps, tensors
        case SSM():
            heads, modes, rank = len(operation.D), operation.B.shape[1] // 2, len(operation.p)
            source = "g" if operation.gated else operation.source
            epilogue = _GATE if operation.gated else _GELU_SUM if operation.tapped else _GELU
            numbers = _numbers(_SSM, source, "g", epilogue, heads, heads, modes, rank)
            return numbers, 0.0, (_coefficients(operation), _columns(operation.D), _low_rank(operation))
        case Shift(taps):
            heads, n = taps.shape
            return _numbers(_SHIFT, "g", "g", _STORE, heads, heads, period=n), 0.0, (_columns(taps.mT),)
        case Samples(amplitude, count):
            return _numbers(_SAMPLES, "x", "h", _STORE, count, count, levels=len(amplitude)), 0.0, (amplitude.float(),)
        case Clusters(offsets, counts):
            K = len(offsets) - 1
            numbers = _numbers(_CLUSTERS, "logits", "logits", _STORE, offsets[-1] + counts[-1], sum(counts) - K, K)
            return numbers, 0.0, (torch.tensor([*zip(offsets, counts, strict=True)], dtype=torch.int64),)
        case Linear():
            return _linear(operation, weights)
        case Down(stride, width):
            return _numbers(_DOWN, "x", "x", _STORE, width, width, period=stride), 0.0, ()
        case Up(width):
            return _numbers(_UP, "x", "x", _STORE, width, width), 0.0, ()
        case Keep(width):
            return _numbers(_KEEP, "x", "x", _STORE, width, width), 0.0, ()
        case AddKept(width):
            return _numbers(_ADD_KEPT, "x", "x", _STORE, width, width), 0.0, ()
        case Pixel() | Where() | Neighbours() | Taps():
            return _of_pixels(operation)
        case Components() | Mixture() | Channel():
            return _pixel_head(operation)


def _of_pixels(operation: Pixel | Where | Neighbours | Taps) -> Record:
    """Return the record of an operation that only the stack of a model of whole pixels has."""
    match operation:
        case Pixel(_, channels, levels, history, kept, classes):
            ring, width = history * channels, sum(map(_filled, kept))
            sizes = (_PIXEL, "x", "kept", _STORE, ring, width, classes)
            return _numbers(*sizes, channels=channels, levels=levels, period=history), 0.0, ()
        case Where(row, column, value, label):
            width = row.shape[1]
            numbers = _numbers(_WHERE, "x", "x", _STORE, width, width, len(value))
            return numbers, 0.0, (_columns(row), _columns(column), _columns(value), _columns(label))
        case Neighbours(offsets, channels, predicts):
            numbers = _numbers(_NEIGHBOURS, "x", "h", _STORE, len(offsets), len(offsets) * (channels + 1), predicts)
            return numbers, 0.0, (torch.tensor(offsets, dtype=torch.int32),)
        case Taps(weight):
            return _numbers(_TAPS, "h", "g", _STORE, weight.shape[1], weight.shape[1]), 0.0, (_columns(weight),)


def _pixel_head(operation: Components | Mixture | Channel) -> Record:
    """Return the record of an operation that only the head of a model of whole pixels has."""
    match operation:
        case Components(count, channels):
            width = count * (1 + 2 * channels + channels * (channels - 1) // 2)
            return _numbers(_COMPONENTS, "g", "kept", _STORE, width, width, count), 0.0, ()
        case Mixture(count, _, levels):
            return _numbers(_MIXTURE, "kept", "logits", _STORE, count, levels, count), 0.0, (_edges(levels),)
        case Channel(channel, value, width):
            numbers = _numbers(_CHANNEL, "h", "g", _STORE, width, width, len(value))
            return numbers, 0.0, (_columns(channel), _columns(value))


def _edges(levels: int) -> Tensor:
    """Return the edges between the values of a channel, from -1 to 1, and the two outer ones: r(levels + 1), padded.

    They are rounded as in `MixtureHead`. The outer edges are so far away that all of a component lies between them.
    """
    edges = torch.arange(-1, 2 * levels, 2).float() * (1 / (levels - 1)) - 1
    edges[0], edges[-1] = -_FAR, _FAR
    return F.pad(edges, (0, WIDTH), value=_FAR)


def _filled(n: int) -> int:
    """Return n rounded up to a number of full blocks."""
    return -(-n // WIDTH) * WIDTH


def _linear(linear: Linear, weights: str) -> Record:
    weight, bias = linear.weight.detach().float(), linear.bias.detach().float()
    if linear.source == "window":
        weight = _columns(weight.unflatten(1, (linear.parts, -1))).flatten(1)
    elif linear.parts > 1:
        weight = _columns(weight.unflatten(0, (linear.parts, -1)).mT).mT.flatten(0, 1)
        bias = _columns(bias.unflatten(0, (linear.parts, -1))).flatten()
    n_out, n_in = weight.shape
    adds = linear.target == "x" and linear.source != "window"
    epilogues = {"": _ADD if adds else _STORE, "gelu": _GELU, "added gelu": _ADD_GELU, "glu": _GLU_ADD}
    epilogue = epilogues[linear.epilogue]
    if epilogue == _GLU_ADD:
        weight, bias = _paired(weight), _paired(bias)
        n_out = len(bias)
    numbers = _numbers(_LINEAR, linear.source, linear.target, epilogue, n_in, n_out, weights=WEIGHTS.index(weights))
    if weights == "fp32":
        return numbers, 0.0, (_blocks(weight, 1), _columns(bias))
    if weights == "bf16":
        return numbers, 0.0, (_blocks(weight, 2).bfloat16(), _columns(bias))
    # An output whose weights are all zero has the smallest scale instead of 0, so that 0 / scale is 0 and not NaN.
    scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return numbers, 0.0, (_blocks((weight / scale[:, None]).round(), 4).to(torch.int8), _columns(bias), _columns(scale))


def _columns(x: Tensor) -> Tensor:
    """Fill up the last axis with zeros to a multiple of 16; return the tensor itself if nothing is missing."""
    x, missing = x.detach().float(), -x.shape[-1] % WIDTH
    return F.pad(x, (0, missing)) if missing else x


def _rows(x: Tensor) -> Tensor:
    """Fill up the first axis with zeros and cut it into blocks: (n, ...) -> (n / 16, 16, ...)."""
    x = x.detach().float()
    filled = torch.cat([x, x.new_zeros(-len(x) % WIDTH, *x.shape[1:])])
    return filled.unflatten(0, (-1, WIDTH))


def _blocks(weight: Tensor, per: int) -> Tensor:
    """Lay out weights (out, in) as [in / DEPTH][out / 64][DEPTH / per][4][16][per], flat; `per` weights are 32 bits."""
    filled = F.pad(weight, (0, -weight.shape[1] % per))
    parts = [
        group.unflatten(2, (-1, per)).permute(2, 0, 1, 3).reshape(-1)  # from (4, 16, DEPTH / per, per)
        for part in filled.split(DEPTH, dim=1)
        for group in _rows(part).split(GROUP)
    ]
    return torch.cat(parts)


def _paired(x: Tensor) -> Tensor:
    """Reorder values, then gates, into blocks of 16 values, each of them followed by the block of their gates.

    The engine can then multiply a block as soon as it has both parts.
    """
    value, gate = (_rows(half) for half in x.chunk(2))
    return torch.stack((value, gate), dim=1).flatten(0, 2)


def _coefficients(ssm: SSM) -> Tensor:
    """Lay out the diagonal, B and C as [heads / 16][mode][a, B, C: real, imaginary][16]."""
    parts = torch.stack([half for vector in (ssm.a, ssm.B, ssm.C) for half in vector.chunk(2, dim=-1)], dim=-1)
    return _rows(parts).permute(0, 2, 3, 1).contiguous()  # from (blocks, 16, modes, 6)


def _low_rank(ssm: SSM) -> Tensor:
    """Lay out the correction to the diagonal as [heads / 16][mode][rank][p, q: real, imaginary][16]."""
    parts = torch.stack([half for vector in (ssm.p, ssm.q) for half in vector.chunk(2, dim=-1)], dim=-1)
    return _rows(parts.transpose(0, 1)).permute(0, 3, 2, 4, 1).contiguous()  # from (blocks, 16, R, modes, 4)
