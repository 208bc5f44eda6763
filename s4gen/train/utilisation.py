"""Model FLOPs utilisation: the model's operations per second, as a share of the most that the processor can do.

Operations are those of forward pass and gradient (s4gen.models.flops). What is computed a second time to save memory
does not count (arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import functools

import torch

from s4gen.machine.timing import product_rate
from s4gen.models.build import AnyModel
from s4gen.models.flops import count_flops

PEAKS = {
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "A10": (125e12, 31.2e12),
    "L4": (121e12, 30.3e12),
}
"""Operations per second in bf16 (dense matrix products) and in float32, as NVIDIA publishes them.

The key is a part of the name of the card; if several keys fit, the first one counts.
"""
_BUDGET = 0.4
"""Seconds for which the products of a CPU are timed, for each number format."""


class Utilisation:
    """The share of the peak that a number of steps has reached."""

    def __init__(self, model: AnyModel, device: torch.device, precision: str, world: int = 1) -> None:
        """Measure or look up the peak of the device, of which `world` ranks have one each."""
        peak = peak_rate(device, precision)
        self._model, self._peak = model, None if peak is None else world * peak
        self._flops: dict[int, int] = {}

    def flops(self, rows: int, length: int) -> int:
        """Return the operations of a training step on `rows` rows of this length."""
        if length not in self._flops:  # clips of sound have many lengths
            self._flops[length] = count_flops(self._model, length).training
        return rows * self._flops[length]

    def of(self, flops: int, seconds: float) -> float | None:
        """Return the share of the peak that `flops` operations in `seconds` seconds are; None if it is unknown."""
        return None if self._peak is None else flops / seconds / self._peak


@functools.cache
def peak_rate(device: torch.device, precision: str) -> float | None:
    """Return the operations per second that a device can reach in fp32 or bf16; None for a GPU that is not in `PEAKS`.

    The peak of a CPU is measured once, in about half a second for each number format: products of matrices with
    PyTorch's threads, in that precision or, if it is faster, in float32.
    """
    if device.type == "cuda":
        return published_peak(torch.cuda.get_device_name(device), precision)
    # Where bf16 is emulated, float32 is faster, and what the model keeps in float32 could exceed the peak of bf16.
    kinds = [torch.float32, torch.bfloat16] if precision == "bf16" else [torch.float32]
    return max(product_rate(kind, device, _BUDGET) for kind in kinds)


def published_peak(name: str, precision: str) -> float | None:
    """Return the peak of the card with this name; None if it is not in `PEAKS`."""
    words = name.replace("-", " ")
    for part, (bf16, fp32) in PEAKS.items():
        if f" {part} " in f" {words} ":
            return {"bf16": bf16, "fp32": fp32}[precision]
    return None
