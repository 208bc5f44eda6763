"""Tensors read from a file against those of the model that they are for: names, shapes and kinds of numbers."""

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
    """The tensors in the precision of those of the model in config.json; another one is said, once for the file.

    Those whose names are in `exact` are kept as they are found.

    Raises:
        UserError: one is missing, one too many, of another shape, or of numbers of another kind.
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
    """The tensors as numbers of the expected types, where only the precision differs."""
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
    return str(kind).removeprefix("torch.")
