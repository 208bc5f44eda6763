"""Which numbers the projections of a training run are multiplied in, where its recipe leaves that open."""

from __future__ import annotations

import dataclasses
import functools

import torch

from s4gen.config import Recipe
from s4gen.machine.timing import product_rate
from s4gen.showing.progress import say_once

_MATRICES, _BUDGET = (256,), 0.05
"""The sizes of the matrices whose products are timed, and for how many seconds, in each of the two precisions. They are
small, because without instructions for bf16 a product can take a hundred times as long as in fp32."""


def settled(recipe: Recipe, device: torch.device, begun: bool = False) -> Recipe:
    """Return the recipe that `chosen` makes of this one, and say on standard error what was taken, and why.

    A recipe that asks for bf16 where that is slow keeps it, with a warning that names the measured ratio, and so does
    a run that has `begun` elsewhere.
    """
    found = chosen(recipe, device)
    if found.train.precision == recipe.train.precision == "fp32":
        return found
    ratio = bf16_ratio(device)
    if recipe.train.precision == "auto":
        than = f"{ratio:.1f} times as fast as fp32 here" if ratio > 1 else f"{1 / ratio:.1f} times slower here"
        say_once(f"s4gen: precision {found.train.precision} (products in bf16 are {than})")
    elif ratio < 1:
        advice = "a run keeps the precision that it began with" if begun else "train.precision=auto avoids that"
        say_once(f"s4gen: warning: bf16 is slow here: products take {1 / ratio:.1f} times as long as in fp32; {advice}")
    return found


def chosen(recipe: Recipe, device: torch.device) -> Recipe:
    """Return the recipe with fp32 or bf16 in the place of `auto`.

    It is bf16 where this device multiplies matrices faster in it, which processors without instructions for bf16 do
    many times slower.
    """
    if recipe.train.precision != "auto":
        return recipe
    precision = "bf16" if bf16_ratio(device) > 1 else "fp32"
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))


@functools.cache
def bf16_ratio(device: torch.device) -> float:
    """How many times as many products of matrices a second the device makes in bf16 as in float32, measured once."""
    fp32, bf16 = (product_rate(dtype, device, _BUDGET, _MATRICES) for dtype in (torch.float32, torch.bfloat16))
    return bf16 / fp32
