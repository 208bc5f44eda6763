"""Choose the number format in which a run multiplies its matrices, if the recipe has `train.precision = "auto"`."""

from __future__ import annotations

import dataclasses
import functools

import torch

from s4gen.config import Recipe
from s4gen.machine.timing import product_rate
from s4gen.showing.progress import say_once

_MATRICES, _BUDGET = (256,), 0.05
"""The sizes of the matrices whose products are timed, and the seconds for each of the two formats.

The matrices are small, because without instructions for bf16 a product can take a hundred times as long as in fp32.
"""


def settled(recipe: Recipe, device: torch.device, begun: bool = False) -> Recipe:
    """Return the recipe with its precision as `chosen`, and print on standard error what was chosen, and why.

    A recipe that asks for bf16 where bf16 is slow keeps it, with a warning that names the measured ratio. So does a run
    that has `begun`, perhaps on another machine.
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
    """Return the recipe with `auto` replaced by fp32 or bf16, whichever this device multiplies matrices faster in."""
    if recipe.train.precision != "auto":
        return recipe
    precision = "bf16" if bf16_ratio(device) > 1 else "fp32"
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))


@functools.cache
def bf16_ratio(device: torch.device) -> float:
    """Measure how many times as fast the device multiplies matrices in bf16 as in float32; once in a process."""
    fp32, bf16 = (product_rate(dtype, device, _BUDGET, _MATRICES) for dtype in (torch.float32, torch.bfloat16))
    return bf16 / fp32
