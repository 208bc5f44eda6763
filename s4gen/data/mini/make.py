"""Make the mini sets again:  S4GEN_DATA=FOLDER python -m s4gen.data.mini.make

From the same data, numpy and zlib the files come out byte for byte the same.
"""

from __future__ import annotations

import io

import numpy as np

from s4gen.data import open_split
from s4gen.data.mini import FOLDER
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic

COUNTS = {"mnist": (2000, 500), "cifar10": (128, 32)}
"""Images taken from the head of the train and of the test split: together under a megabyte."""


def make(name: str, n_train: int, n_test: int) -> None:
    """Write NAME.npz beside this file."""
    train, test = open_split(name, "train"), open_split(name, "test")
    if train.source != "S4GEN_DATA":  # torchvision has CIFAR-10 in another order
        raise UserError("S4GEN_DATA is not set: the mini sets are made from the files in that folder")
    archive = io.BytesIO()
    np.savez_compressed(
        archive,
        train_images=train.images[:n_train],
        train_labels=train.labels[:n_train].astype(np.uint8),
        test_images=test.images[:n_test],
        test_labels=test.labels[:n_test].astype(np.uint8),
    )
    write_file_atomic(FOLDER / f"{name}.npz", archive.getvalue())


if __name__ == "__main__":
    for name, counts in COUNTS.items():
        make(name, *counts)
