"""The device that everything runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU. `CUDA_VISIBLE_DEVICES=` hides a GPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
