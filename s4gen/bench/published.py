"""Table 2 of the S4 paper (arXiv 2111.00396): what a training step of LSSL and S4 took on its GPU. Needs no PyTorch."""

from __future__ import annotations

import math

DIMENSIONS = (128, 256, 512)
"""N = H in the table."""
LENGTH = 1024
BATCH = 1

_TABLE = {
    ("lssl", 128): (9.32, 222.1),
    ("lssl", 256): (20.6, 1685.0),
    ("lssl", 512): (140.7, 13140.0),
    ("s4", 128): (4.77, 5.3),
    ("s4", 256): (3.07, 12.6),
    ("s4", 512): (4.75, 33.5),
}
"""Milliseconds and MB of a training step, by layer and dimension."""


def is_published(layer: str, dimension: int) -> bool:
    """Return whether the paper has numbers for this layer at this dimension."""
    return (layer, dimension) in _TABLE


def published(layer: str, dimension: int) -> tuple[float, float, float, float]:
    """Return ms, MB, and how many times as much of both LSSL takes in the paper; NaN where it has no numbers."""
    ms, mb = _TABLE.get((layer, dimension), (math.nan, math.nan))
    lssl_ms, lssl_mb = _TABLE.get(("lssl", dimension), (math.nan, math.nan))
    return ms, mb, lssl_ms / ms, lssl_mb / mb
