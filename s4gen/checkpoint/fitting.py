"""Check the tensors of a file against the model that they are for: names, shapes and types of numbers."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from s4gen.errors import UserError


def fitting(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, exact: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors `found` in the precision of the model's, `expected`; names in `exact` keep their own.

    If tensors had to be converted, one line on standard error says so.

    Raises:
        UserError: a tensor is missing, superfluous, of another shape, or holds integers where the model has
            floating-point numbers (or the reverse); the message names the tensor and `path`, the file.
    """
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    for problem, names in (("is missing", missing), ("is not part of the model", unexpected)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{path} does not fit config.json: tensor {names[0]}{more} {problem}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            got, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            raise UserError(f"{path} does not fit config.json: tensor {name} has shape {got}, expected {wanted}")
    others = {name: tensor for name, tensor in expected.items() if name not in exact}
    return _in_precision(found, others, path)


def _in_precision(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Convert tensors that differ from the expected ones in precision alone; refuse integers for floats and so on."""
    others = {}
    for name in expected:
        tensor, got, wanted = found[name], found[name].dtype, expected[name].dtype
        if got == wanted:
            continue
        if not (got.is_floating_point and wanted.is_floating_point):
            raise UserError(
                f"{path} does not fit config.json: tensor {name} holds {_noun(got)}, expected {_noun(wanted)}"
            )
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
