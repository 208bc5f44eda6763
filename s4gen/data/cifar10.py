"""Read CIFAR-10: 32 x 32 colour photographs of ten kinds of things, 50,000 to train with and 10,000 to test with.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Parquet files in the layout of the
hub's `uoft-cs/cifar10`: a column `img` of PNG images and a column `label`. Their rows may be in another order
than torchvision's, and then other images are held out for validation.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4gen.data.store import data_folder
from s4gen.errors import UserError, shortened
from s4gen.files.atomic import write_file_atomic
from s4gen.files.folders import cache_folder
from s4gen.files.reading import open_regular

SIZES = {"train": 50_000, "test": 10_000}


PLACE = "cifar10/train-*.parquet and cifar10/test-*.parquet"
"""The files that `S4GEN_DATA` must hold."""


def load(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Load a split; return images (n, 32, 32, 3), labels (n,) and where they came from.

    Decoding the Parquet files takes seconds, so the arrays are kept in the user's cache.

    Raises:
        UserError: a file is missing, cut off or not what it should be; or there is neither data nor network.
    """
    folder = data_folder()
    if folder is None:
        from s4gen.data.vision import download

        return *download("CIFAR10", split, PLACE), "torchvision"
    files = sorted((folder / "cifar10").glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(
            f"no {split}-*.parquet in {folder / 'cifar10'}: S4GEN_DATA must hold {PLACE}; unset it to download CIFAR-10"
        )
    images, labels = _cached(files, cache_folder() / f"cifar10-{split}.npz")
    if len(images) != SIZES[split]:
        raise UserError(
            f"{split}-*.parquet in {folder / 'cifar10'} hold {len(images)} images, expected {SIZES[split]}: "
            "a file is missing or one too many"
        )
    return images, labels, "S4GEN_DATA"


def _cached(files: Sequence[Path], cache: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return what `_decode` makes of these files, from the cache if that was made of these very files."""
    key = json.dumps([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    # Whatever is wrong with the cache, it is made again. Zip has a checksum of each array.
    with contextlib.suppress(Exception), open_regular(cache) as file, np.load(file) as kept:
        if str(kept["key"]) == key:
            images, labels = kept["images"], kept["labels"]
            if (images.shape, images.dtype) == ((len(labels), 32, 32, 3), np.uint8) and labels.dtype == np.int64:
                return images, labels
    images, labels = (np.concatenate(parts) for parts in zip(*map(_decode, files), strict=True))
    archive = io.BytesIO()
    np.savez(archive, key=np.array(key), images=images, labels=labels)
    with contextlib.suppress(UserError):  # no room or no permission: the next start decodes again
        write_file_atomic(cache, archive.getvalue())
    return images, labels


def _decode(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images (n, 32, 32, 3) and labels (n,) of one Parquet file.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    from datasets import load_dataset

    # Streaming writes nothing but a lock, which goes with the folder. A failure is reported here, once.
    with tempfile.TemporaryDirectory() as scratch, _silent("datasets"):
        try:
            rows = load_dataset(
                "parquet", data_files=glob.escape(str(file)), split="train", streaming=True, cache_dir=scratch
            )
            pairs = [(np.asarray(row["img"]), row["label"]) for row in rows]
        except Exception as error:  # Arrow, datasets and PIL each have their own kinds for a damaged file
            raise UserError(
                f"{file} is damaged or not Parquet with images ({shortened(str(error))}): copy or download it again"
            ) from error
    if not pairs or any(image.shape != (32, 32, 3) or image.dtype != np.uint8 for image, _ in pairs):
        raise UserError(f"{file} does not hold 32 x 32 RGB images of 8 bits: copy or download it again")
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.array(labels, dtype=np.int64)


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
