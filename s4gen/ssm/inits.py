"""Initial values of state space models: Lambda and B of diagonal ones, and step sizes. All in float64.

Source: S4D (arXiv 2206.11893), section 4, and section 5 for the ablations inv2, quad, real and random. n counts the
conjugate pairs, 0 .. N/2 - 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from s4gen.ssm.hippo import check_state_size, nplr


def _legs(N: int) -> tuple[Tensor, Tensor]:
    """Take the normal part of HiPPO-LegS without its low-rank correction, and B from HiPPO (S4D eq. 8)."""
    Lambda, _, B = nplr("legs", N)
    return Lambda, B


def _lin(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -1/2 - i pi n (S4D eq. 10)."""
    return _damped(torch.pi * _indices(N))


def _inv(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -1/2 - i (N/pi) (N/(2n+1) - 1) (S4D eq. 9)."""
    return _damped(N / torch.pi * (N / (2 * _indices(N) + 1) - 1))


def _inv2(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -1/2 - i (N/pi) (N/(n+1) - 1): like inv, but without frequencies below N/pi (S4D section 5)."""
    return _damped(N / torch.pi * (N / (_indices(N) + 1) - 1))


def _quad(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -1/2 - i (2n+1)^2/pi (S4D section 5)."""
    return _damped((2 * _indices(N) + 1) ** 2 / torch.pi)


def _real(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -(n+1): modes that decay and do not oscillate (S4D section 5)."""
    n = _indices(N)
    return torch.complex(-(n + 1), torch.zeros_like(n)), _ones(N)


def _random(N: int) -> tuple[Tensor, Tensor]:
    """Lambda_n = -1/2 - i exp(z) with z standard normal, drawn from torch's global generator (S4D section 5)."""
    return _damped(torch.exp(torch.randn(N // 2, dtype=torch.float64)))


def _indices(N: int) -> Tensor:
    return torch.arange(N // 2, dtype=torch.float64)


def _ones(N: int) -> Tensor:
    return torch.ones(N // 2, dtype=torch.complex128)


def _damped(frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Return Lambda = -1/2 - i frequency, and B = 1."""
    return torch.complex(torch.full_like(frequency, -0.5), -frequency), torch.ones_like(frequency).to(torch.complex128)


S4D_INITS: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "legs": _legs,
    "lin": _lin,
    "inv": _inv,
    "inv2": _inv2,
    "quad": _quad,
    "real": _real,
    "random": _random,
}


def s4d(init: str, N: int) -> tuple[Tensor, Tensor]:
    """Return initial Lambda c(n) and B c(n) of a diagonal model in complex128, n = N/2; B = 1 for all but legs.

    Raises:
        ValueError: the name is unknown, or N is odd.
    """
    check_state_size(N)
    if init not in S4D_INITS:
        raise ValueError(f"unknown initialisation {init!r}: expected one of {', '.join(S4D_INITS)}")
    return S4D_INITS[init](N)


def log_uniform_dt(H: int, dt_min: float, dt_max: float) -> Tensor:
    """Draw step sizes r(H), log-uniform between dt_min and dt_max, from torch's global generator.

    A head with step dt remembers some 1/dt inputs, so its heads cover time scales from 1/dt_max to 1/dt_min.
    """
    u = torch.rand(H, dtype=torch.float64)
    return torch.exp(u * (np.log(dt_max) - np.log(dt_min)) + np.log(dt_min))
