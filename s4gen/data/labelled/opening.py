"""Opening what a recipe names for a task that gives answers: examples with classes or numbers, or a series."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig, ImageLayout, TaskConfig, kind_of
from s4gen.config.names import ARRAY_PREFIX, LABELLED_PREFIX
from s4gen.data.examples import ExampleSplits
from s4gen.data.labelled import listops, pathfinder
from s4gen.data.labelled.arrays import open_arrays
from s4gen.data.labelled.audio_examples import open_audio
from s4gen.data.labelled.generated import generated
from s4gen.data.labelled.image_examples import open_images
from s4gen.data.labelled.text_examples import open_texts
from s4gen.data.labelled.workers import rows
from s4gen.data.text import layout_of
from s4gen.errors import UserError


def open_examples(data: DataConfig, task: TaskConfig, progress: bool = False) -> ExampleSplits:
    """Open the examples of a recipe: train, validation and test, with what their rows and answers are.

    Args:
        data: which data, and how they are read.
        task: classify or regress.
        progress: show bars on standard error where data are generated, read or decoded.

    Raises:
        UserError: the data are missing, damaged, or nothing that the task can be learnt from; the message says why.
    """
    if data.dataset == "listops":
        return _open_listops(data, progress)
    if data.dataset in pathfinder.DEFINITIONS:
        return _open_pathfinder(data, progress)
    if data.dataset.startswith(ARRAY_PREFIX):
        return open_arrays(data, task.kind == "classify")
    if data.dataset.startswith(LABELLED_PREFIX):
        return open_texts(data, progress)
    kind = kind_of(data.dataset)
    if kind == "audio":
        return open_audio(data, progress)
    if kind == "image":
        return open_images(data, progress)
    raise UserError(f"{data.dataset} has no classes: expected images, audio, listops, labelled:PATH or npy:FOLDER")


def _open_listops(data: DataConfig, progress: bool) -> ExampleSplits:
    low, high = data.lengths or listops.LENGTHS
    parameters = {"lengths": [low, high], "depth": listops.MAX_DEPTH, "args": listops.MAX_ARGS, "seed": data.seed}

    def made(first: int) -> Generator[tuple[NDArray[np.uint8], int], None, None]:
        # Each is compared with all before it, so they are all made again; 100,000 of them take 15 s.
        found = listops.expressions((low, high), data.seed)
        for _ in itertools.islice(found, first):
            pass
        return found

    splits = generated("listops", parameters, _counts(data, listops.COUNTS), made, progress)
    notes = []
    if (low, high) != listops.LENGTHS:
        limits = "{} to {} tokens".format
        notes.append(f"not the benchmark itself: expressions of {limits(low, high)}, not of {limits(*listops.LENGTHS)}")
    return ExampleSplits(
        *splits,
        layout=layout_of(listops.TOKENIZER),
        answers=listops.CLASSES,
        tokenizer=listops.TOKENIZER,
        notes=tuple(notes),
    )


def _open_pathfinder(data: DataConfig, progress: bool) -> ExampleSplits:
    definition = pathfinder.contours_of(data.dataset, data.contour)
    parameters = {**vars(definition), "margins": list(definition.margins), "seed": data.seed}
    counts = _counts(data, pathfinder.COUNTS)
    made = partial(rows, definition, data.seed, sum(counts))
    splits = generated(data.dataset, parameters, counts, made, progress)
    layout = ImageLayout(definition.size, definition.size, 1)
    usual = pathfinder.DEFINITIONS[data.dataset].contour
    short = f"not the benchmark's hardest: contours of {definition.contour} paddles, not of {usual}"
    notes = (short,) if definition.contour != usual else ()
    return ExampleSplits(*splits, layout=layout, answers=pathfinder.CLASSES, notes=notes)


def _counts(data: DataConfig, usual: tuple[int, int, int]) -> tuple[int, int, int]:
    train, validation, test = data.counts or usual
    return train, validation, test
