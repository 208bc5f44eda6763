"""Read MNIST: 28 x 28 grey digits, 60,000 to train with and 10,000 to test with.

LeCun, Cortes, Burges, "The MNIST database of handwritten digits". IDX is: two zero bytes, one for the type
(8 = unsigned byte), one for the number of axes, their lengths as big-endian 32-bit integers, then the values.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4gen.data.gzipped import open_gzipped
from s4gen.data.store import data_folder
from s4gen.errors import UserError

SIZES = {"train": 60_000, "test": 10_000}


PLACE = "mnist/MNIST/raw/*-ubyte.gz"
"""The files that `S4GEN_DATA` must hold."""


def load(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Load a split; return images (n, 28, 28, 1), labels (n,) and where they came from.

    Raises:
        UserError: a file is missing, cut off or not what it should be; or there is neither data nor network.
    """
    folder = data_folder()
    if folder is None:
        from s4gen.data.vision import download

        images, labels = download("MNIST", split, PLACE)
        return images[..., None], labels, "torchvision"
    prefix = {"train": "train", "test": "t10k"}[split]
    raw = folder / "mnist" / "MNIST" / "raw"
    n = SIZES[split]
    missing = f"S4GEN_DATA must hold {PLACE}; unset it to download MNIST"
    images = read_idx(raw / f"{prefix}-images-idx3-ubyte.gz", (n, 28, 28), missing)
    labels = read_idx(raw / f"{prefix}-labels-idx1-ubyte.gz", (n,), missing).astype(np.int64)
    return images[..., None], labels, "S4GEN_DATA"


def read_idx(path: Path, shape: tuple[int, ...], missing: str) -> NDArray[np.uint8]:
    """Return the bytes of a gzipped IDX file, which must have this shape.

    Args:
        path: the file.
        shape: the lengths of its axes.
        missing: what the user can do where there is no such file, as the end of a message.

    Raises:
        UserError: the file is not there, is damaged, or holds something else; the message names it.
    """
    header = np.array([0x800 + len(shape), *shape], dtype=">i4").tobytes()
    size = len(header) + math.prod(shape)
    try:
        with open_gzipped(path) as file:
            content = file.read(size + 1)  # and no more, however much it may unpack to
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {missing}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or unreadable ({error}): copy or download it again") from error
    if not content.startswith(header) or len(content) != size:
        wanted = " x ".join(map(str, shape))
        raise UserError(f"{path} does not hold {wanted} bytes in IDX format: copy or download it again")
    values = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    return values.copy()  # writable, as torch wants it
