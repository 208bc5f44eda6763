"""Hold the first images of MNIST and CIFAR-10 for the demo and the tests; README.md here says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent


def load(name: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Load a split of `mnist` or `cifar10`; return images (n, h, w, c), labels (n,) and where they came from."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return file[f"{split}_images"], file[f"{split}_labels"].astype(np.int64), "s4gen"
