"""Which numbers the projections of a training run are multiplied in, where its recipe leaves that open."""

from __future__ import annotations

import dataclasses
import functools
import sys

import torch

from s4gen.config import Recipe
from s4gen.timing import best_seconds

_MATRIX, _BUDGET = 256, 0.05
"""The size of the matrices whose products are timed, and for how many seconds, in each of the two precisions. They are
small, because without instructions for bf16 a product can take a hundred times as long as in fp32."""


def settled(recipe: Recipe, device: torch.device, begun: bool = False, quiet: bool = False) -> Recipe:
    """Return the recipe with fp32 or bf16 in the place of `auto`; unless `quiet`, say on standard error what and why.

    It is bf16 where this device multiplies matrices faster in it, which processors without instructions for bf16 do
    many times slower. A recipe that asks for bf16 there keeps it, with a warning that names the measured ratio, and so
    does a run that has `begun` elsewhere.
    """
    asked = recipe.train.precision
    if asked == "fp32":
        return recipe
    ratio = bf16_ratio(device)
    if asked == "bf16":
        if ratio < 1 and not quiet:
            advice = "a run keeps the precision that it began with" if begun else "train.precision=auto avoids that"
            _say_once(
                f"s4gen: warning: bf16 is slow here: products take {1 / ratio:.1f} times as long as in fp32; {advice}"
            )
        return recipe
    precision = "bf16" if ratio > 1 else "fp32"
    than = f"{ratio:.1f} times as fast as fp32 here" if ratio > 1 else f"{1 / ratio:.1f} times slower here"
    if not quiet:
        _say_once(f"s4gen: precision {precision} (products in bf16 are {than})")
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


@functools.cache
def bf16_ratio(device: torch.device) -> float:
    """How many times as many products of matrices a second the device makes in bf16 as in float32, measured once."""
    fp32, bf16 = (
        best_seconds(functools.partial(torch.mm, matrix, matrix), device, _BUDGET)
        for matrix in (
            torch.ones(_MATRIX, _MATRIX, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16)
        )
    )
    return fp32 / bf16
