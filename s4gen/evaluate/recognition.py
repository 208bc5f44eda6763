"""Recognising recordings: a classifier of clips says which of its classes each one sounds like.

It judges generated speech; it takes no part in training or sampling. It is a predictor (`models.predictor`) in an
ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4gen.checkpoint import PREDICTOR_FORMAT, load_predictor, read_json
from s4gen.config import AudioLayout
from s4gen.errors import UserError
from s4gen.files.shipped import shipped_folder, shipped_names
from s4gen.models.predictor import Predictor

SAMPLES = 1 << 19
"""Samples in a batch, padding included, so that memory does not grow with the number of clips."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier of recordings."""

    model: Predictor
    """On the CPU, in evaluation mode."""

    @property
    def layout(self) -> AudioLayout:
        """How the clips that it was trained on are coded."""
        layout = self.model.config.layout
        assert isinstance(layout, AudioLayout)  # `load_classifier` has checked it
        return layout

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it tells apart."""
        return self.model.config.answers.names

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
                best = self.model.answer(samples[..., None], lengths).argmax(-1).tolist()
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


def load_classifier(name_or_path: str | Path) -> Classifier:
    """Load the classifier of recordings of this path or shipped name. The global random state is left as it was.

    Raises:
        UserError: there is none, it is of something else, damaged, or of another format version.
    """
    found = load_predictor(name_or_path)
    if found.config.task.kind != "classify" or not isinstance(found.config.layout, AudioLayout):
        raise UserError(f"{found.path} does not classify recordings; choose another checkpoint")
    if found.config.reader == "tokens":
        raise UserError(f'{found.path} reads codes (task.reader = "tokens"), not samples; choose another checkpoint')
    return Classifier(found.model)


def find_classifier(classes: Sequence[str], rate: int) -> Classifier | None:
    """Return the shipped classifier of these very classes, in this order, at this rate; None where there is none.

    Raises:
        UserError: a shipped one is damaged.
    """
    for name in shipped_names("checkpoints"):
        folder = shipped_folder("checkpoints") / name
        tables = read_json(folder / "config.json")
        if tables.get("format") != PREDICTOR_FORMAT or tables["predictor"]["layout"].get("kind") != "audio":
            continue
        classifier = load_classifier(folder)
        if (classifier.classes, classifier.rate) == (tuple(classes), rate):
            return classifier
    return None


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
