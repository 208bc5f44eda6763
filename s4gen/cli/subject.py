"""What the verbs work on: a checkpoint or preset, the sequences that go with it, the device."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.atomic import current
from s4gen.cli.output import shows_progress
from s4gen.config import ImageLayout, is_text, kind_of
from s4gen.config.layouts import RATES
from s4gen.config.run import AUDIO_PREFIX, AUDIO_SETS, UNSPLIT
from s4gen.config.schema import PLURAL
from s4gen.errors import UserError
from s4gen.shipped import shipped_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.data.audio import AudioFormat, AudioSet
    from s4gen.data.text import TokenFile
    from s4gen.models.density import DensityModel


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


def refuse_foreign(option: str, kinds: Sequence[str], kind: str, model: str) -> None:
    """Refuse an option that is for models of other kinds than this one.

    Raises:
        UserError: `kind` is not among `kinds`.
    """
    if kind not in kinds:
        names = " and ".join(PLURAL[known] for known in kinds)
        raise UserError(f"{option} is for {names}, and {model} is a model of {PLURAL[kind]}; leave it out")


def dataset_of(checkpoint: Checkpoint) -> str:
    """The data set that the checkpoint was trained on.

    Raises:
        UserError: the checkpoint does not say.
    """
    if checkpoint.recipe is None:
        raise UserError(f"{checkpoint.path} has no recipe that names a data set; name one with --dataset")
    return checkpoint.recipe.data.dataset


def load_sequences(dataset: str, split: str, limit: int | None, checkpoint: Checkpoint) -> tuple[Tensor, Tensor | None]:
    """The first `limit` (None: all) images of a split, for this model: sequences (n, L) int64, and labels (n,) int64.

    Without labels where the model is not conditional on them. What was done to somebody's own images goes to standard
    error.

    Raises:
        UserError: no such data, or images of another layout than the model's, or without its classes.
    """
    import torch

    from s4gen.data import to_sequence
    from s4gen.data.images import labels_for
    from s4gen.data.own_images import open_split

    layout, recipe = checkpoint.config.layout, checkpoint.recipe
    assert isinstance(layout, ImageLayout)
    images = open_split(dataset, split, layout, None if recipe is None else recipe.data, shows_progress())
    for line in images.notes:
        print(f"s4gen: {images.name}: {line}", file=sys.stderr)
    if images.layout != dataclasses.replace(layout, classes=()):
        raise UserError(
            f"{dataset} has images of {_size(images.layout)}, the model is for {_size(layout)}: choose a fitting "
            "--dataset"
        )
    labels = labels_for(images, layout)
    return to_sequence(images.images[:limit]), None if labels is None else torch.from_numpy(labels[:limit])


def chosen_classes(items: Sequence[str] | None, classes: Sequence[str], model: str) -> list[int]:
    """Numbers of the classes asked for, as names, lists `3,7` and ranges `0-9`; None: all that the model has.

    Raises:
        UserError: the model has no classes, or none of this name.
    """
    if items is not None and not classes:
        raise UserError(f"--classes: {model} is not conditional on classes; leave it out")
    if items is None:
        return list(range(len(classes)))
    return [number for item in items for number in _numbers(item, list(classes))]


def _numbers(item: str, classes: list[str]) -> list[int]:
    if item in classes:
        return [classes.index(item)]
    if "," in item:
        return [number for part in item.split(",") for number in _numbers(part.strip(), classes)]
    for dash in re.finditer("-", item):
        ends = item[: dash.start()], item[dash.end() :]
        if all(end in classes for end in ends):
            first, last = map(classes.index, ends)
            if first <= last:
                return list(range(first, last + 1))
    raise UserError(f"--classes: no class and no range {item!r}; the classes are {', '.join(classes)}")


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


def load_clips(dataset: str, split: str, checkpoint: Checkpoint, form: AudioFormat, shown: bool) -> AudioSet:
    """A split of recordings for a model of audio, and on standard error what was changed about them.

    Of the model's own data set it has the recipe's limits of length; and where that set has no validation split, it is
    what training held out. `shown`: with a progress bar.

    Raises:
        UserError: no such data, no audio, or clips without the labels that the model is conditional on.
    """
    from s4gen.data.audio import hold_out
    from s4gen.data.audio.opening import check_fits, open_split

    if kind_of(dataset) != "audio":
        names = ", ".join(AUDIO_SETS)
        hint = f"; did you mean {AUDIO_PREFIX}{dataset}?" if Path(dataset).is_dir() else ""
        raise UserError(
            f"{dataset} is no audio, and {checkpoint.path} a model of audio: expected one of {names}, or "
            f"{AUDIO_PREFIX}FOLDER{hint}"
        )
    recipe = checkpoint.recipe
    own = recipe.data if recipe is not None and recipe.data.dataset == dataset else None
    if split == "validation" and dataset in UNSPLIT and own is not None and own.validation:
        audio = hold_out(open_split(dataset, "train", form, own, shown), own.validation)[1]
    else:
        audio = open_split(dataset, split, form, own, shown)
    check_fits(audio, getattr(checkpoint.config.layout, "classes", ()))
    for line in audio.report.lines():
        print(f"s4gen: {audio.name}: {line}", file=sys.stderr)
    return audio


def longest_clips(audio: AudioSet, n: int, length: int) -> tuple[Tensor, Tensor | None]:
    """The beginnings of the n longest clips, all as long as the shortest of them and at most `length` samples.

    Returns:
        Codes (n, L) int64, and the clips' labels (n,) int64 or None.
    """
    import numpy as np

    from s4gen.data.audio.batches import Windows, gather

    chosen = np.sort(np.argsort(-audio.lengths, kind="stable")[:n])
    lengths = np.full(len(chosen), min(length, int(audio.lengths[chosen].min())))
    batch = gather(audio, Windows(chosen, np.zeros_like(chosen), lengths), np.arange(len(chosen)))
    return batch.codes, batch.labels


def rate_of(rate: int, factor: float) -> int:
    """Samples per second at `factor` times a rate.

    Raises:
        UserError: none that sound can have.
    """
    found = round(rate * factor)
    if found not in RATES:
        raise UserError(
            f"--rate {factor:g} times the model's {rate:,} is {found:,} samples per second: expected 100 to 1000000; "
            "the rate is a factor, such as 0.5"
        )
    return found


def at_rate(checkpoint: Checkpoint, factor: float) -> DensityModel:
    """The model for signals with `factor` times as many samples per second as it was trained on.

    Raises:
        UserError: its layers know no time.
    """
    from s4gen.models.density import resampled

    mixer = checkpoint.config.model.traits
    if not mixer.has_dt:
        raise UserError(
            f'--rate changes the step of state space layers, and model.mixer = "{mixer.name}" has none: leave it out, '
            "or train at the other rate"
        )
    return resampled(checkpoint.model, 1 / factor)


def _size(layout: ImageLayout) -> str:
    return f"{layout.height} x {layout.width} x {layout.channels} with {layout.levels} levels"
