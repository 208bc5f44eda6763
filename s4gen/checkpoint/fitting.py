"""Check the tensors of a file against the model that they are for: names, shapes and types of numbers."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from s4gen.errors import UserError, shortened


def fitting(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, exact: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors `found` in the precision of the model's, `expected`; names in `exact` keep their own.

    If tensors had to be converted, one line on standard error says so.

    Raises:
        UserError: as in `check_fit`.
    """
    check_fit(found, expected, path, exact)
    return _in_precision(found, {name: x for name, x in expected.items() if name not in exact}, path)


def check_fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, exact: Collection[str] = ()
) -> None:
    """Compare the tensors `found` with those of a model; either may be on the meta device.

    Raises:
        UserError: a tensor is missing, superfluous, of another shape, or holds integers where the model has
            floating-point numbers (or the reverse); the message names the tensor and `path`, the file.
    """
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    for problem, names in (("is missing", missing), ("is not part of the model", unexpected)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            name = shortened(names[0], 100)
            raise UserError(f"{path} does not fit config.json: tensor {name}{more} {problem}")
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            shapes = f"has shape {tuple(found[name].shape)}, expected {tuple(wanted.shape)}"
            raise UserError(f"{path} does not fit config.json: tensor {name} {shapes}")
    for name in expected:
        kind, like = found[name].dtype, expected[name].dtype
        if kind != like and not (kind.is_floating_point and like.is_floating_point):
            raise UserError(
                f"{path} does not fit config.json: tensor {name} holds {_noun(kind)}, expected {_noun(like)}"
            )


def _in_precision(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Convert tensors that differ from the expected ones in precision."""
    others = {}
    for name in expected:
        tensor, wanted = found[name], expected[name].dtype
        if tensor.dtype != wanted:
            others[name] = tensor.to(wanted)
    if others:
        kinds = sorted({_noun(found[name].dtype) for name in others})
        print(
            f"s4gen: {path}: {len(others)} of {len(found)} tensors hold {' and '.join(kinds)}, and are taken as "
            f"{_noun(expected[next(iter(others))].dtype)}",
            file=sys.stderr,
        )
    return {**found, **others}


def _noun(kind: torch.dtype) -> str:
    """Return a dtype's name for messages, such as "float32"."""
    return str(kind).removeprefix("torch.")
