"""Recordings and their classes: spoken digits, Speech Commands, and folders of the user's own by class.

A row is a clip as a density model reads it, a code for each sample, at the rate of the recipe; clips of other rates are
resampled (soxr, high quality). The splits are those that densities are trained and tested on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig
from s4gen.data.audio.clips import AudioSet
from s4gen.data.audio.opening import layout_of, open_split, recipe_format, recipe_limits, training_splits
from s4gen.data.examples import Examples, ExampleSplits
from s4gen.data.labelled.parts import check_classes, three
from s4gen.data.labelled.rows import Rows
from s4gen.errors import UserError


def open_audio(data: DataConfig, progress: bool) -> ExampleSplits:
    """Open the recordings that a recipe names as rows of codes (L,) with their classes.

    Raises:
        UserError: as for `s4gen.data.audio.opening.open_split`; or recordings have no classes, or one only.
    """
    training, validation = training_splits(data, progress)
    test = open_split(data.dataset, "test", recipe_format(data), *recipe_limits(data), progress)
    found = [training, _none_of(training) if validation is None else validation, test]
    splits = three([Examples(Rows(audio.codes, audio.starts, audio.lengths), _labels(audio)) for audio in found])
    check_classes(data.dataset, training.classes, splits)
    for audio in found[1:]:
        if audio.classes != training.classes:
            raise UserError(
                f"the {audio.split} split of {data.dataset} has the classes {', '.join(audio.classes)}, and training "
                f"has {', '.join(training.classes)}: give all splits the same folders"
            )
    # What is held out of the training clips has their findings, too.
    read = [audio for audio in found if audio is training or audio.findings is not training.findings]
    notes = [f"{audio.split}: {line}" for audio in read for line in audio.findings.lines()]
    return ExampleSplits(
        *splits, layout=layout_of(training, labelled=False), answers=training.classes, notes=tuple(notes)
    )


def _none_of(audio: AudioSet) -> AudioSet:
    return audio.subset(audio.lengths[:0])


def _labels(audio: AudioSet) -> NDArray[np.int64]:
    """Return the classes (n,) of all clips."""
    if audio.labels is None:
        raise UserError(
            f"the recordings of {audio.name} have no classes, or one only: put those of each class into a folder of "
            "its own, and have at least two"
        )
    return audio.labels
