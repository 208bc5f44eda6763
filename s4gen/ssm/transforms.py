"""Positive quantities (dt, -Re Lambda) from unconstrained parameters, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-4
"""The least positive value that a parameter may start from, and below which `relu` never falls."""


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


# name: (unconstrained -> positive, positive -> unconstrained)
POSITIVE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp": (torch.exp, torch.log),
    "softplus": (F.softplus, _softplus_inverse),
    "relu": (lambda x: F.relu(x) + FLOOR, lambda y: y - FLOOR),
    "none": (lambda x: x, lambda y: y),  # the value itself; nothing keeps it positive in training
}


def positive(raw: Tensor, transform: str) -> Tensor:
    """Return the positive value that an unconstrained parameter stands for."""
    return POSITIVE[transform][0](raw)


def unconstrained(value: Tensor, transform: str) -> Tensor:
    """Invert `positive`, in float64; values below FLOOR become FLOOR.

    For relu they become twice that, because relu has no gradient at FLOOR itself and the parameter would never move.
    """
    return POSITIVE[transform][1](value.double().clamp_min(2 * FLOOR if transform == "relu" else FLOOR))
