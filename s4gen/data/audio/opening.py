"""Open the splits of a data set of recordings, for a recipe or a model, and say the layout of a model of them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from s4gen.config import AudioLayout, DataConfig
from s4gen.config.names import AUDIO_PREFIX, AUDIO_SETS, SPLITS, WITHOUT_VALIDATION
from s4gen.data.audio.clips import AudioSet, build
from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.published import PUBLISHED
from s4gen.data.audio.sources import Source, from_parquet, from_tree, is_sound
from s4gen.data.tree import Folder, OneFile
from s4gen.errors import UserError
from s4gen.files.folders import user_path

FOLDER_FORMAT = AudioFormat(16_000)
"""The format of a folder of recordings, where the recipe does not say."""


def open_split(
    dataset: str,
    split: str,
    format: AudioFormat,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    progress: bool = False,
) -> AudioSet:
    """Open a split of a data set of recordings: every usable one whole, as codes of this format.

    Args:
        dataset: one of `AUDIO_SETS`; or a folder of sound files (`sources.from_tree` says how it is split) or one such
            file, or a folder of Parquet files (`sources.from_parquet`), there or in its folder data/. "audio:" may
            stand before a path.
        split: train, validation or test; fsdd has no validation, see `hold_out`.
        min_seconds, max_seconds: recordings of other lengths are left out.
        progress: count recordings on standard error.

    Returns:
        The clips; `findings.lines()` says what was skipped or changed, and is for the user.

    Raises:
        UserError: there is no such data set or split; no recording is usable; there is neither data nor network.
    """
    if split not in SPLITS:
        raise UserError(f"no split called {split!r}: expected one of {', '.join(SPLITS)}")
    source = _source(dataset.removeprefix(AUDIO_PREFIX), split)
    return build(source, format, min_seconds, max_seconds, progress)


def _source(dataset: str, split: str) -> Source:
    """Find the recordings of a split."""
    if dataset in PUBLISHED:
        return PUBLISHED[dataset].open(split)
    folder = Path(os.path.realpath(user_path(dataset)))
    if folder.is_file() and is_sound(folder.name):
        return from_tree(OneFile(folder), split, dataset, dataset)
    if not folder.is_dir():
        near = get_close_matches(dataset, AUDIO_SETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{dataset} is no folder and no data set: expected a folder or one of {', '.join(AUDIO_SETS)}{hint}"
        )
    for place in (folder, folder / "data"):  # the hub keeps Parquet files in data/
        if any(place.glob("*.parquet")):
            return from_parquet(place, split, dataset, dataset)
    return from_tree(Folder(folder), split, dataset, dataset)


def recipe_format(data: DataConfig) -> AudioFormat:
    """Return the format that a recipe asks for; what it leaves open is that of the data set."""
    known = PUBLISHED[data.dataset].format if data.dataset in PUBLISHED else FOLDER_FORMAT
    return AudioFormat(data.rate or known.rate, data.law or known.law, data.bits, data.normalise or known.normalise)


def recipe_crop(data: DataConfig) -> int | None:
    """Return the samples of a training sequence; None: whole clips."""
    rate = recipe_format(data).rate
    if data.crop:
        return max(1, round(data.crop * rate))
    known = PUBLISHED.get(data.dataset)
    if known is None or known.crop is None:
        return None
    return round(known.crop * rate / known.format.rate)


def recipe_limits(data: DataConfig | None) -> tuple[float, float]:
    """Return the least and the most seconds of a recording that a recipe takes; without one, any are taken."""
    return (0.0, math.inf) if data is None else (data.min_seconds, data.max_seconds or math.inf)


def training_splits(data: DataConfig, progress: bool = False) -> tuple[AudioSet, AudioSet | None]:
    """Open what a recipe trains on and validates with; the latter is held out where the set has no split for it.

    Raises:
        UserError: as for `open_split`; or nothing would be left to train on.
    """
    limits = recipe_limits(data)
    training = open_split(data.dataset, "train", recipe_format(data), *limits, progress)
    if not data.validation:
        return training, None
    if data.dataset in WITHOUT_VALIDATION:
        return hold_out(training, data.validation)
    held = open_split(data.dataset, "validation", recipe_format(data), *limits, progress)
    return training, held.subset(np.arange(min(len(held), data.validation)))


def hold_out(audio: AudioSet, n: int) -> tuple[AudioSet, AudioSet]:
    """Split a set into all but n clips, to train on, and n clips drawn at random, always the same, to validate with.

    Raises:
        UserError: nothing would be left to train on.
    """
    if not 0 <= n < len(audio):
        raise UserError(
            f"data.validation = {n}: expected 0 to {len(audio) - 1}, so that some of the {len(audio)} "
            f"training clips of {audio.name} are left to train on"
        )
    order = np.random.default_rng(0).permutation(len(audio))
    return audio.subset(np.sort(order[n:])), replace(audio.subset(np.sort(order[:n])), split="validation")


def layout_of(audio: AudioSet, labelled: bool) -> AudioLayout:
    """Return the layout of a model of these clips, which is conditional on their labels or not.

    Raises:
        UserError: it is to be conditional, and they have none.
    """
    if labelled and audio.labels is None:
        raise UserError(f"data.labels = true: the clips of {audio.name} have no labels; leave it out")
    format = audio.format
    return AudioLayout(format.rate, format.law, format.bits, format.normalise, audio.classes if labelled else ())


def check_fits(audio: AudioSet, classes: Sequence[str]) -> None:
    """Refuse clips whose labels are not those that a model is conditional on.

    Raises:
        UserError: they are not.
    """
    if classes and (audio.labels is None or tuple(audio.classes) != tuple(classes)):
        raise UserError(
            f"the model is conditional on {', '.join(classes)}, and the clips of {audio.name} are labelled "
            f"{', '.join(audio.classes) if audio.labels is not None else 'with nothing'}; choose a fitting data set"
        )
