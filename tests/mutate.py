"""Seeded mutations of what s4gen reads: bytes, JSON and tensors. One seed gives one mutation.

A mutation is mostly a small change, so that what is read comes deep into the reader, and at times a gross one. Nothing
says that a mutated value must be refused: it must be refused in one line, or be as good as any other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "1",
    "1.5",
    str(2**31),
    str(2**53 + 1),
    str(2**63),
    str(-(2**63) - 1),
    "9" * 5000,
    "1000000",
    "null",
    "true",
    "false",
    '""',
    '"x"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\\u001b[31m"',
    '"' + "x" * 100_000 + '"',
    "[]",
    "{}",
    '[""]',
    '{"a": {}}',
    "[" * 100_000,
    "[" * 500 + "]" * 500,
    '{"a":' * 500 + "1" + "}" * 500,
    "[" + "0," * 1000 + "0]",
]
"""JSON texts, most of them not what anybody expects, that take the place of a value."""


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four flips, cuts, insertions, repetitions or moves."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_bytes(changed, rng)
    return bytes(changed)


def _change_bytes(data: bytearray, rng: random.Random) -> None:
    # Headers stand in front, and decide: every second change is there.
    reach = min(len(data), 128) if rng.random() < 0.5 else len(data)
    at = rng.randrange(reach) if reach else 0
    length = min(len(data) - at, rng.choice((1, 2, 4, 8, 64)))
    kind = rng.choice(("flip", "flip", "flip", "set", "number", "cut", "drop", "insert", "repeat", "zero"))
    if kind == "flip" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "set" and data:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == "number":
        value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
        data[at : at + 8] = value.to_bytes(8, rng.choice(("little", "big")))
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at : at + length]
    elif kind == "insert":
        data[at:at] = rng.randbytes(length or 1)
    elif kind == "repeat":
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 100))
    elif kind == "zero":
        data[at : at + length] = bytes(length)


def mutate_json(value: Any, rng: random.Random) -> bytes:
    """Return the JSON text of a value in which one thing is another, missing, doubled or renamed, or of broken JSON."""
    if rng.random() < 0.1:
        return mutate_bytes(json.dumps(value).encode(), rng)
    copy = json.loads(json.dumps(value))
    paths = list(_paths(copy))
    if not paths or rng.random() < 0.02:
        return rng.choice(RAW).encode()
    holder, key = rng.choice(paths)
    kind = rng.choice(("raw", "raw", "raw", "near", "near", "drop", "rename", "copy", "wrap"))
    mark = "@@MUTATED@@"
    if kind == "raw":
        holder[key] = mark
    elif kind == "near":
        holder[key] = _near(holder[key], rng)
    elif kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice((f"{key}x", "", str(key)[1:], "kind", "__class__"))] = holder.pop(key)
    elif kind == "copy":
        other, there = rng.choice(paths)
        if there in (other if isinstance(other, dict) else range(len(other))):
            holder[key] = json.loads(json.dumps(other[there]))
    else:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    return json.dumps(copy).replace(json.dumps(mark), rng.choice(RAW)).encode()


def _paths(value: Any) -> list[tuple[Any, Any]]:
    """Return all places inside a value, as pairs of what holds them and of the key or index there."""
    found: list[tuple[Any, Any]] = []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner)[:1000]:
        found += [(value, key), *_paths(item)]
    return found


def _near(value: Any, rng: random.Random) -> Any:
    """Return a value of the same type, or nearly, that is another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 10**6, float(value), str(value), 0))
    if isinstance(value, float):
        return rng.choice((value * 2, -value, 0.0, 1e300, -1e300, int(value) if abs(value) < 1e18 else 0))
    if isinstance(value, str):
        return rng.choice((value[:-1], value + "x", value.upper(), "", value * 50, [value], 7))
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value, value[::-1], [[*value]], dict.fromkeys(map(str, value), 1)))
    if isinstance(value, dict):
        return rng.choice(({}, list(value), {**value, "more": 1}, str(value)[:100]))
    return rng.choice((0, "", False))


def mutate_tensors(tensors: Mapping[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """Return named tensors of which one is of other values, shape or type, missing, renamed or more than was there."""
    changed = dict(tensors)
    if not changed:
        return {"x": torch.zeros(1)}
    name = rng.choice(sorted(changed))
    tensor = changed.pop(name)
    kind = rng.choice(sorted(_TENSORS))
    if kind == "drop":
        return changed
    if kind == "rename":
        return {**changed, rng.choice((f"{name}x", name[1:], "", "weights." + name)): tensor}
    if kind == "more":
        return {**changed, name: tensor, f"{name}2": tensor.clone()}
    return {**changed, name: _TENSORS[kind](tensor, rng).contiguous()}


def _spoilt(value: float) -> Callable[[Tensor, random.Random], Tensor]:
    """Return a function that sets one number of a tensor; in a tensor of integers, to the largest or least one."""

    def spoil(tensor: Tensor, rng: random.Random) -> Tensor:
        tensor = tensor.clone()
        if tensor.numel() and tensor.dtype != torch.bool:
            floating = tensor.dtype.is_floating_point
            limit = None if floating else torch.iinfo(tensor.dtype)
            new = value if limit is None else limit.max if value > 0 else limit.min
            tensor.view(-1)[rng.randrange(tensor.numel())] = new
        return tensor

    return spoil


_TENSORS: dict[str, Callable[[Tensor, random.Random], Tensor]] = {
    "drop": lambda x, rng: x,
    "rename": lambda x, rng: x,
    "more": lambda x, rng: x,
    "nan": _spoilt(float("nan")),
    "infinite": _spoilt(float("inf")),
    "negative": _spoilt(float("-inf")),
    "longer": lambda x, rng: torch.cat([x.reshape(1) if not x.dim() else x] * 2),
    "shorter": lambda x, rng: x[:-1] if x.dim() else x.reshape(1)[:0],
    "flat": lambda x, rng: x.reshape(-1),
    "deep": lambda x, rng: x[None],
    "turned": lambda x, rng: x.mT if x.dim() > 1 else x[None],
    "scalar": lambda x, rng: torch.zeros((), dtype=x.dtype),
    "empty": lambda x, rng: torch.zeros((0, *x.shape), dtype=x.dtype),
    "dtype": lambda x, rng: x.to(
        rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool))
    ),
}
