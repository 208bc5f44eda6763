"""Recognising recordings: a classifier says which of its classes each one sounds like, and is kept in a directory.

It judges generated speech; it takes no part in training or sampling. A directory holds

config.json          format, its version, and the tables of the model
model.safetensors    parameters and buffers, exactly as they were
README.md            the card
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import s4gen
from s4gen.checkpoint import (
    CLASSIFIER_FORMAT,
    check_target,
    config_in,
    load_model,
    read_json,
    resolve_checkpoint,
    save_tensors,
)
from s4gen.config import AudioLayout, DensityConfig, density_config_to_dict
from s4gen.config.checks import ConfigError
from s4gen.errors import UserError, shortened
from s4gen.files.atomic import read_consistent, write_atomic
from s4gen.files.shipped import shipped_folder, shipped_names
from s4gen.models.classifier import ClassifierModel

FORMAT_VERSION = 1
SAMPLES = 1 << 19
"""Samples in a batch, padding included, so that memory does not grow with the number of clips."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier of recordings."""

    model: ClassifierModel
    """On the CPU, in evaluation mode."""

    @property
    def layout(self) -> AudioLayout:
        """How the clips that it was trained on are coded, and their classes."""
        layout = self.model.config.layout
        assert isinstance(layout, AudioLayout)  # the model would not exist
        return layout

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it tells apart."""
        return self.layout.classes

    @property
    def rate(self) -> int:
        """Samples per second of the clips that it listens to."""
        return self.layout.rate

    def recognise(self, clips: Sequence[NDArray[np.floating[Any]]]) -> list[int]:
        """Recognise clips (n,) of samples in -1 ... 1 at `rate`, of any loudness and length.

        Returns the number in `classes` of each clip. The classifier always decides for one, for silence and noise too.

        Raises:
            UserError: a clip is empty, has more than one channel, or a sample that is not a finite number.
        """
        for number, clip in enumerate(clips):
            if clip.ndim != 1 or not len(clip):
                raise UserError(f"clip {number} has shape {clip.shape}: expected (samples,), at least one")
            if not np.isfinite(clip).all():
                raise UserError(f"clip {number} has samples that are not finite numbers: nothing can be recognised")
        found = [0] * len(clips)
        for batch in _batches([len(clip) for clip in clips]):
            samples, lengths = padded([clips[index] for index in batch])
            with torch.inference_mode():
                best = self.model(samples, lengths).argmax(-1).tolist()
            for index, label in zip(batch, best, strict=True):
                found[index] = label
        return found


def padded(clips: Sequence[NDArray[np.floating[Any]]]) -> tuple[Tensor, Tensor]:
    """Put clips (B,) side by side: samples float32 (B, L) with zeros behind each clip, and their lengths int64 (B,)."""
    lengths = [len(clip) for clip in clips]
    samples = np.zeros((len(clips), max(lengths)), np.float32)
    for row, clip in zip(samples, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(samples), torch.tensor(lengths)


def save_classifier(path: str | Path, model: ClassifierModel, *, card: str, overwrite: bool = False) -> None:
    """Write the whole classifier, or nothing: a failure leaves what was there before.

    Raises:
        UserError: `path` exists (and `overwrite` is not set, or it is not a checkpoint), or cannot be written.
    """
    check_target(path, overwrite)

    def fill(folder: Path) -> None:
        config = {
            "format": CLASSIFIER_FORMAT,
            "format_version": FORMAT_VERSION,
            "s4gen_version": s4gen.__version__,
            "classifier": density_config_to_dict(model.config),
        }
        save_tensors(folder / "model.safetensors", model.state_dict())
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")

    write_atomic(path, fill)


def load_classifier(name_or_path: str | Path) -> Classifier:
    """Load the classifier of this path or shipped name. The global random state is left as it was.

    Raises:
        UserError: there is none, it is a density model, damaged, or of another format version.
    """
    path = resolve_checkpoint(name_or_path)
    return Classifier(read_consistent(path, _read))


def find_classifier(classes: Sequence[str], rate: int) -> Classifier | None:
    """Return the shipped classifier of these very classes, in this order, at this rate; None where there is none.

    Raises:
        UserError: a shipped one is damaged.
    """
    for name in shipped_names("checkpoints"):
        folder = shipped_folder("checkpoints") / name
        if read_json(folder / "config.json").get("format") != CLASSIFIER_FORMAT:
            continue
        classifier = load_classifier(folder)
        if (classifier.classes, classifier.rate) == (tuple(classes), rate):
            return classifier
    return None


def _read(folder: Path) -> ClassifierModel:
    config = _read_config(folder / "config.json")
    try:
        return load_model(folder / "model.safetensors", lambda: ClassifierModel(config))
    except ConfigError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def _read_config(path: Path) -> DensityConfig:
    config = read_json(path)
    if config.get("format") != CLASSIFIER_FORMAT:
        raise UserError(
            f'{path}: format = {shortened(repr(config.get("format")), 60)}: expected "{CLASSIFIER_FORMAT}"; this is no '
            "classifier"
        )
    return config_in(config, "classifier", "classifier", path)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of all clips of these lengths, in batches of at most SAMPLES samples or of one longer clip.

    Clips of like lengths come together, so that little of a batch is padding.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[index] > SAMPLES:
            batches.append([])
        batches[-1].append(index)
    return batches
