"""Time calls on a monotonic clock, and products of matrices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

_PASSES = 5
"""At least this many calls are timed, of which the best is taken."""
_MATRICES = (512, 1024)
"""Sizes of the square matrices whose products are timed."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one call in seconds, with everything that it started on the device."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def best_seconds(work: Callable[[], object], device: torch.device, budget: float) -> float:
    """Return the shortest wall time of a call in seconds: what the machine can do undisturbed.

    Calls go on for `budget` seconds, and there are at least a few.
    """
    seconds(work, device)
    deadline, best, passes = time.perf_counter() + budget, float("inf"), 0
    while passes < _PASSES or time.perf_counter() < deadline:
        best, passes = min(best, seconds(work, device)), passes + 1
    return best


def product_rate(dtype: torch.dtype, device: torch.device, budget: float, sizes: Sequence[int] = _MATRICES) -> float:
    """Measure the floating-point operations per second of a product of square matrices, the best of a few sizes.

    It takes about `budget` seconds, and leaves the global random state as it was.
    """
    generator = torch.Generator(device).manual_seed(0)

    def rate(n: int) -> float:
        a, b = torch.rand(2, n, n, generator=generator, device=device).to(dtype)
        out = torch.empty_like(a)
        return 2 * n**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, budget / len(sizes))

    return max(map(rate, sizes))
