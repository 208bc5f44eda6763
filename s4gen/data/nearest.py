"""Find the training images that are closest to given ones, to see whether a model copies what it was trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 5_000
"""Training images that are compared at a time, in float32."""


def nearest(images: Tensor, known: NDArray[np.uint8], k: int) -> tuple[Tensor, Tensor]:
    """Find the k training images nearest to each image, and how far away they are.

    Args:
        images: sequences of values, int64 (n, L).
        known: the training images, uint8 (m, h, w, c) with h w c = L, m >= k.

    Returns:
        Their numbers int64 (n, k), the nearest first, and the root mean square difference of the values r(n, k), in
        levels.
    """
    rows, table = images.float(), known.reshape(len(known), -1)
    best = torch.empty(len(rows), 0)
    number = torch.empty(len(rows), 0, dtype=torch.int64)
    for first in range(0, len(table), CHUNK):
        part = torch.from_numpy(table[first : first + CHUNK].astype(np.float32))
        squares = rows.square().sum(1)[:, None] + part.square().sum(1) - 2 * rows @ part.T
        numbers = torch.arange(first, first + len(part)).expand(len(rows), -1)
        best, chosen = torch.cat((best, squares), dim=1).topk(min(k, best.shape[1] + len(part)), largest=False)
        number = torch.cat((number, numbers), dim=1).gather(1, chosen)
    return number, (best.clamp_min(0) / rows.shape[1]).sqrt()
