"""From a recipe's settings to sets of clips, and from those to the layout of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from s4gen.config import AudioLayout, DataConfig
from s4gen.config.run import AUDIO_PREFIX, UNSPLIT
from s4gen.data.audio import PRESETS, AudioFormat, AudioSet, hold_out, load_audio
from s4gen.errors import UserError

FOLDER_FORMAT = AudioFormat(16_000)
"""Of a folder of recordings, where the recipe does not say."""


def format_of(data: DataConfig) -> AudioFormat:
    """What the recipe says, and otherwise what goes with the set."""
    known = PRESETS[data.dataset].form if data.dataset in PRESETS else FOLDER_FORMAT
    return AudioFormat(data.rate or known.rate, data.law or known.law, data.bits, data.normalise or known.normalise)


def crop_of(data: DataConfig) -> int | None:
    """Samples of a training sequence; None: whole clips."""
    if data.crop:
        return max(1, round(data.crop * format_of(data).rate))
    preset = PRESETS.get(data.dataset)
    if preset is None or preset.crop is None:
        return None
    return round(preset.crop * format_of(data).rate / preset.form.rate)


def training_sets(data: DataConfig, shown: bool = False) -> tuple[AudioSet, AudioSet | None]:
    """To train on, and to validate with: held out, where the set has no validation split of its own.

    Raises:
        UserError: as of `load_audio`.
    """
    training = open_split(data.dataset, "train", format_of(data), data, shown)
    if not data.validation:
        return training, None
    if data.dataset in UNSPLIT:
        return hold_out(training, data.validation)
    held = open_split(data.dataset, "validation", format_of(data), data, shown)
    return training, held.subset(np.arange(min(len(held), data.validation)))


def open_split(
    dataset: str, split: str, form: AudioFormat, limits: DataConfig | None = None, shown: bool = False
) -> AudioSet:
    """A split of a data set, which may be audio:FOLDER, with the limits of length that a recipe has.

    Raises:
        UserError: as of `load_audio`.
    """
    longest = limits.max_seconds if limits and limits.max_seconds else math.inf
    name = dataset.removeprefix(AUDIO_PREFIX)
    return load_audio(name, split, form, limits.min_seconds if limits else 0.0, longest, shown)


def layout_of(audio: AudioSet, labelled: bool) -> AudioLayout:
    """The layout of a model of these clips, which is conditional on their labels or not.

    Raises:
        UserError: they have none.
    """
    if labelled and audio.labels is None:
        raise UserError(f"data.labels = true: the clips of {audio.name} have no labels; leave it out")
    form = audio.form
    return AudioLayout(form.rate, form.law, form.bits, form.normalise, audio.classes if labelled else ())


def form_of(layout: AudioLayout) -> AudioFormat:
    """What clips must be turned into for a model of this layout."""
    return AudioFormat(layout.rate, layout.law, layout.bits, layout.normalise)


def check_fits(audio: AudioSet, classes: Sequence[str]) -> None:
    """Refuse clips whose labels are not those that a model is conditional on.

    Raises:
        UserError: they are not.
    """
    if classes and (audio.labels is None or tuple(audio.classes) != tuple(classes)):
        raise UserError(
            f"the model is conditional on {', '.join(classes)}, and the clips of {audio.name} are labelled "
            f"{', '.join(audio.classes) if audio.labels is not None else 'with nothing'}; choose a fitting --dataset"
        )
