"""Import torchvision, and download through it with checksums; nothing else in s4gen does."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import socket
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.errors import UserError
from s4gen.files.folders import cache_folder

PATIENCE = 10.0
"""Seconds without an answer after which a server counts as out of reach."""

_kept_alive: list[Any] = []


@cache
def import_torchvision() -> ModuleType:
    """Return torchvision, also where its compiled operators do not fit the installed torch.

    A torchvision built for CUDA beside a torch for the CPU cannot load its operators, and its import then
    stops at two that are missing, `nms` and `qnms`. Nothing here uses them: declaring them is enough.
    """
    with contextlib.suppress(RuntimeError):
        return importlib.import_module("torchvision")
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)  # the declarations go when it goes
    return importlib.import_module("torchvision")


def download(name: str, split: str, place: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images and labels of a data set that torchvision has, from the cache or the network.

    Args:
        name: the class in `torchvision.datasets`, such as MNIST or CIFAR10.
        split: train or test.
        place: the files that `S4GEN_DATA` may hold instead, in the words of a message.

    Returns:
        Images as torchvision has them, (n, 28, 28) or (n, 32, 32, 3), and labels (n,).

    Raises:
        UserError: the data are not there and cannot be had; the message says how to get them.
    """
    folder = cache_folder()
    dataset = getattr(import_torchvision().datasets, name)
    try:
        # torchvision prints its failed attempts; standard output belongs to results.
        with _impatient_sockets(), contextlib.redirect_stdout(sys.stderr):
            found = dataset(folder, train=split == "train", download=True)
    except (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException) as error:
        raise UserError(
            f"no {name}: S4GEN_DATA is not set, and downloading to {folder} failed ({_reason(error)}); "
            f"connect to the network, or set S4GEN_DATA to a folder that holds {place}"
        ) from error
    return np.asarray(found.data), np.asarray(found.targets, dtype=np.int64)


@contextlib.contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Give up on servers that do not answer for PATIENCE seconds; torchvision sets no limit itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Return the reason of a failed download in one line.

    For MNIST, torchvision's message has a heading and then, for each mirror, "Tried URL, got:" and a reason.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[2] if len(lines) > 2 else lines[0]
