"""Which settings go together: keys with kinds of data, and mixers with state space settings.

The dataclasses of the configuration check their own ranges; what is here looks at two or more of them at once.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from s4gen.config.checks import ConfigError
from s4gen.config.mixers import MIXERS, RESERVED
from s4gen.config.names import PLURAL
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
    **dict.fromkeys((f"data.{key}" for key in ("crop", "tail", "min_seconds", "max_seconds")), ("audio",)),
    "data.labels": ("image", "audio"),
    **dict.fromkeys((f"data.{key}" for key in ("flips", "size", "channels", "fit")), ("image",)),
    "train.chunk": ("text",),
}
"""Keys that mean something only for these kinds of data; all other keys are for every kind."""


def refuse_foreign(kind: str, what: str, **sections: Any) -> None:
    """Raise ConfigError for a key that is set but means nothing for data of this kind; `what` names the data."""
    for section, table in sections.items():
        for field in fields(table):
            value, kinds = getattr(table, field.name), GOES_WITH.get(f"{section}.{field.name}", (kind,))
            if kind not in kinds and value != field.default:
                shown = list(value) if isinstance(value, tuple) else json.dumps(value)
                names = " and ".join(PLURAL[known] for known in kinds)
                raise ConfigError(
                    f"{section}.{field.name}", f"= {shown} goes with {names}, not with {what}: leave it out"
                )


def check_window(kind: str, model: ModelConfig, what: str) -> None:
    """Raise ConfigError for a mixer that is not for data of this kind, or lacks the window that it needs there.

    Only images have an embedding that knows the positions; elsewhere attention needs a window. `what` names the data.
    """
    if model.traits.needs_window and kind != "image" and not model.window:
        raise ConfigError("model.window", f"= 0: {model.mixer} needs a window, such as 512, on {what}")
    if kind not in model.traits.kinds:
        names = " and ".join(PLURAL[known] for known in model.traits.kinds)
        raise ConfigError("model.mixer", f'= "{model.mixer}" goes with {names}, not with {what}')


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
