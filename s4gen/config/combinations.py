"""Which settings go together: keys with kinds of data, and mixers with state space settings.

The dataclasses of the configuration check their own ranges; what is here looks at two or more of them at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from s4gen.config.checks import ConfigError
from s4gen.config.mixers import MIXERS, RESERVED
from s4gen.config.names import (
    ARRAY_PREFIX,
    AUDIO_PREFIX,
    CSV_PREFIX,
    GENERATED_SETS,
    IMAGE_PREFIX,
    IMAGE_SETS,
    LABELLED_PREFIX,
    PLURAL,
    PREDICTIONS,
)
from s4gen.config.schema import ModelConfig, SSMConfig

GOES_WITH = {
    "model.window": ("text", "audio"),
    **dict.fromkeys(("model.cutoffs", "model.div", "model.tied"), ("text",)),
    **dict.fromkeys(
        (f"model.{key}" for key in ("whole_pixels", "neighbourhood", "taps", "scan", "head", "components")), ("image",)
    ),
    "model.recent": ("audio",),
    "data.validation": ("image", "audio"),
    "data.tokenizer": ("text",),
    "data.vocab_size": ("text",),
    **dict.fromkeys((f"data.{key}" for key in ("rate", "law", "bits", "normalise")), ("audio",)),
    **dict.fromkeys(
        (f"data.{key}" for key in ("crop", "tail", "speed", "gain", "min_seconds", "max_seconds")), ("audio",)
    ),
    "data.labels": ("image", "audio"),
    **dict.fromkeys((f"data.{key}" for key in ("flips", "size", "channels", "fit")), ("image",)),
    "train.chunk": ("text",),
}
"""Keys that mean something only for these kinds of data; all other keys are for every kind."""

OF_ALL_KINDS = ("data.validation", "model.window")
"""Keys of `GOES_WITH` that mean something for every kind of data where the task is not a density."""

FOR_TASKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((f"data.{key}" for key in ("labels", "tail", "flips", "crop")), ("density",)),
    **dict.fromkeys(("train.chunk", "train.n_samples", "model.recent", "model.pool"), ("density",)),
    "model.whole_pixels": ("density",),
    "model.batch_norm": PREDICTIONS,
    **dict.fromkeys(("task.pool", "task.bidirectional"), PREDICTIONS),
    **dict.fromkeys(("task.reader", "data.grey", "data.permuted", "data.speed", "data.gain"), ("classify",)),
    **dict.fromkeys((f"task.{key}" for key in ("window", "horizon", "targets", "relative")), ("forecast",)),
}
"""Keys that mean something only for these values of `task.kind`; all other keys are for every task."""

FOR_SETS: dict[str, tuple[str, ...]] = {
    "data.grey": ("cifar10", "cifar10-mini"),
    "data.permuted": (*IMAGE_SETS, IMAGE_PREFIX, "pathfinder", "pathx"),
    **dict.fromkeys(("data.seed", "data.counts"), tuple(GENERATED_SETS)),
    "data.lengths": ("listops",),
    "data.contour": ("pathfinder",),
    **dict.fromkeys((f"data.{key}" for key in ("text_column", "label_column", "longest")), (LABELLED_PREFIX,)),
    **dict.fromkeys((f"data.{key}" for key in ("time_column", "columns", "splits")), (CSV_PREFIX,)),
}
"""Keys that mean something only for these data sets, or those that begin so; all other keys are for every set."""

SETS_OF_TASKS: dict[str, tuple[str, ...]] = {
    "density": (),
    "classify": (
        *(*IMAGE_SETS, *GENERATED_SETS, "fsdd", "fsdd-mini", "sc09"),
        *(IMAGE_PREFIX, AUDIO_PREFIX, LABELLED_PREFIX, ARRAY_PREFIX),
    ),
    "regress": (ARRAY_PREFIX,),
    "forecast": (CSV_PREFIX,),
}
"""The data sets of each task, or how their names begin. A density model takes all that are for no other task alone."""

NOT_OF_DENSITIES = (*GENERATED_SETS, LABELLED_PREFIX, ARRAY_PREFIX, CSV_PREFIX)
"""The data sets, or beginnings of their names, that no density model is trained on."""


def is_one_of(dataset: str, names: Sequence[str]) -> bool:
    """Return whether a data set has one of the names, or begins with one that ends in a colon."""
    return any(dataset.startswith(name) if name.endswith(":") else dataset == name for name in names)


def check_data_of_task(task: str, dataset: str) -> None:
    """Raise ConfigError for a data set that the task cannot be learnt from."""
    if task == "density":
        if is_one_of(dataset, NOT_OF_DENSITIES):
            tasks = [name for name, sets in SETS_OF_TASKS.items() if is_one_of(dataset, sets)]
            choice = " or ".join(map(json.dumps, tasks))
            raise ConfigError(
                "task.kind", f'= "density" does not go with data.dataset = "{dataset}": expected {choice}'
            )
    elif not is_one_of(dataset, SETS_OF_TASKS[task]):
        expected = ", ".join(map(_place, SETS_OF_TASKS[task]))
        raise ConfigError("data.dataset", f'= "{dataset}" does not go with task.kind = "{task}": expected {expected}')


def means_something(name: str, kind: str, task: str = "density", dataset: str | None = None) -> bool:
    """Return whether the key "section.key" means something for data of this kind, this task and this data set.

    Without a data set, as for a model whose data are not known, keys of all sets do.
    """
    if kind not in GOES_WITH.get(name, (kind,)) and (task == "density" or name not in OF_ALL_KINDS):
        return False
    if task not in FOR_TASKS.get(name, (task,)):
        return False
    return dataset is None or name not in FOR_SETS or is_one_of(dataset, FOR_SETS[name])


def refuse_foreign(
    kind: str, what: str, for_task: str = "density", dataset: str | None = None, **sections: Any
) -> None:
    """Raise ConfigError for a key that is set but means nothing here.

    Args:
        kind: the kind of the data.
        what: names the data in messages.
        for_task: the value of `task.kind`.
        dataset: the name of the data set, where it is known.
        sections: the dataclasses to look at, by the name of their section.
    """
    for section, table in sections.items():
        for field in fields(table):
            name, value = f"{section}.{field.name}", getattr(table, field.name)
            if value == field.default or means_something(name, kind, for_task, dataset):
                continue
            shown = list(value) if isinstance(value, tuple) else json.dumps(value)
            raise ConfigError(name, f"= {shown} goes with {_places(name, kind, what, for_task)}: leave it out")


def _places(name: str, kind: str, what: str, task: str) -> str:
    """Return where a key goes, and where it does not, in the words of a message."""
    kinds, tasks = GOES_WITH.get(name, (kind,)), FOR_TASKS.get(name, (task,))
    if kind not in kinds:
        return f"{' and '.join(PLURAL[known] for known in kinds)}, not with {what}"
    if task not in tasks:
        return f"task.kind = {' or '.join(map(json.dumps, tasks))}, not with {json.dumps(task)}"
    return f"{', '.join(map(_place, FOR_SETS[name]))}, not with {what}"


def _place(name: str) -> str:
    """Return the name of a data set for messages, or how such a name looks that begins so."""
    return f"{name}PLACE" if name.endswith(":") else name


def check_window(kind: str, model: ModelConfig, what: str) -> None:
    """Raise ConfigError for a mixer that is not for data of this kind, or lacks the window that it needs there.

    Only images have an embedding that knows the positions; elsewhere attention needs a window. `what` names the data.
    """
    if model.traits.needs_window and kind != "image" and not model.window:
        raise ConfigError("model.window", f"= 0: {model.mixer} needs a window, such as 512, on {what}")
    if kind not in model.traits.kinds:
        names = " and ".join(PLURAL[known] for known in model.traits.kinds)
        raise ConfigError("model.mixer", f'= "{model.mixer}" goes with {names}, not with {what}')


def key_of_rows(model: ModelConfig) -> str | None:
    """Return the key by which some layer knows rows and columns of an image, or None if all layers read a sequence."""
    if model.taps:
        return "model.taps"
    return "model.scan" if model.scan != ModelConfig.scan else None


def check_pixels(model: ModelConfig) -> None:
    """Raise ConfigError for a density model whose layers know rows and columns, but are not run once per pixel."""
    key = key_of_rows(model)
    if key and not model.whole_pixels:
        raise ConfigError(key, "goes with model.whole_pixels = true, which is not set: leave it out")


def check_pair(model: ModelConfig, ssm: SSMConfig) -> None:
    """Raise ConfigError for a state space setting that the mixer cannot have."""
    mixer = model.traits
    if ssm.n_ssm and model.d_model % ssm.n_ssm:
        raise ConfigError("ssm.n_ssm", f"= {ssm.n_ssm}: expected a divisor of model.d_model = {model.d_model}, or 0")
    for key in RESERVED:
        value, default = getattr(ssm, key), getattr(SSMConfig, key)
        if value != default and key not in mixer.settings:
            expected = " or ".join(f'"{other.name}"' for other in MIXERS.values() if key in other.settings)
            expected += "" if isinstance(value, bool) else f", or {default}"
            raise ConfigError(
                f"ssm.{key}",
                f'= {json.dumps(value)} does not go with model.mixer = "{mixer.name}": expected {expected}',
            )
    if mixer.inits and ssm.init not in mixer.inits:
        raise ConfigError(
            "ssm.init",
            f'= "{ssm.init}" does not go with model.mixer = "{mixer.name}": expected one of {", ".join(mixer.inits)}',
        )
    if mixer.discretizations and ssm.discretization not in ("auto", *mixer.discretizations):
        rules = " or ".join(f'"{rule}"' for rule in (*mixer.discretizations, "auto"))
        raise ConfigError(
            "ssm.discretization",
            f'= "{ssm.discretization}" does not go with model.mixer = "{mixer.name}": expected {rules}',
        )
