"""What the verbs work on: a checkpoint or preset, the sequences that go with it, the device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.atomic import current
from s4gen.config import DensityConfig, ImageLayout, is_text
from s4gen.errors import UserError
from s4gen.shipped import shipped_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.data.text import TokenFile


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU. `CUDA_VISIBLE_DEVICES=` hides a GPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_preset(name_or_path: str) -> bool:
    """Whether this is a model preset rather than a checkpoint; a checkpoint wins where both have the name.

    Raises:
        UserError: it is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path.suffix == ".toml"
    if current(path) is not None or path.name in shipped_names("checkpoints"):
        return False
    if path.name.removesuffix(".toml") in shipped_names("models"):
        return True
    checkpoints, presets = (", ".join(shipped_names(kind)) or "none" for kind in ("checkpoints", "models"))
    raise UserError(
        f"no checkpoint or model preset at {name_or_path}; the shipped ones are: checkpoints {checkpoints}; "
        f"presets {presets}"
    )


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the one the model was trained on")


def dataset_of(checkpoint: Checkpoint) -> str:
    """The data set that the checkpoint was trained on.

    Raises:
        UserError: the checkpoint does not say.
    """
    if checkpoint.recipe is None:
        raise UserError(f"{checkpoint.path} has no recipe that names a data set; name one with --dataset")
    return checkpoint.recipe.data.dataset


def load_sequences(dataset: str, split: str, limit: int | None, config: DensityConfig) -> Tensor:
    """The first `limit` (None: all) images of a split as sequences (n, L) int64.

    Raises:
        UserError: no such data, or images of another layout than the model's.
    """
    from s4gen.data import load_images, to_sequence

    layout = config.layout
    images = load_images(dataset, split)
    if images.layout != layout:
        wanted = _size(layout) if isinstance(layout, ImageLayout) else "text"
        raise UserError(
            f"{dataset} has images of {_size(images.layout)}, the model is for {wanted}: choose a fitting --dataset"
        )
    return to_sequence(images.images[:limit])


def load_text(dataset: str, split: str, checkpoint: Checkpoint, shown: bool) -> TokenFile:
    """A split of a text in the tokens of a language model; `shown`: with a progress bar where they must be made.

    Raises:
        UserError: no such data, or images.
    """
    from s4gen.data.text import load_tokens

    if not is_text(dataset):
        raise UserError(f"{dataset} is no text, and {checkpoint.path} a model of text: choose a fitting --dataset")
    return load_tokens(dataset, split, checkpoint.tokenizer(), shown)


def first_sequences(text: TokenFile, n: int, length: int) -> Tensor:
    """The first tokens of a text as at most n sequences of `length` tokens, (n, L) int64; a short text is one."""
    import numpy as np
    import torch

    length = min(length, len(text))
    n = min(n, len(text) // length)
    return torch.from_numpy(text.tokens[: n * length].astype(np.int64)).view(n, length)


def _size(layout: ImageLayout) -> str:
    return f"{layout.height} x {layout.width} x {layout.channels} with {layout.levels} levels"
