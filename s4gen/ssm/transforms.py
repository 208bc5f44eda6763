"""Positive quantities (dt, -Re Lambda) from unconstrained parameters, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-4  # the least positive value a parameter starts from, and the one `relu` never falls below


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


# name: (unconstrained -> positive, positive -> unconstrained)
POSITIVE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp": (torch.exp, torch.log),
    "softplus": (F.softplus, _softplus_inverse),
    "relu": (lambda x: F.relu(x) + FLOOR, lambda y: y - FLOOR),
    "none": (lambda x: x, lambda y: y),  # the value itself, which nothing keeps positive
}


def positive(raw: Tensor, transform: str) -> Tensor:
    """The positive value of an unconstrained parameter."""
    return POSITIVE[transform][0](raw)


def unconstrained(value: Tensor, transform: str) -> Tensor:
    """The parameter whose positive value this is, in float64; values below FLOOR become FLOOR.

    Of relu they become twice that: at FLOOR itself it has no gradient, so nothing would ever move from there.
    """
    return POSITIVE[transform][1](value.double().clamp_min(2 * FLOOR if transform == "relu" else FLOOR))
