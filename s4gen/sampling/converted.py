"""Converted checkpoints: the discrete constants and the certificate beside the files of the original."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from s4gen.checkpoint import (
    CURVE_FILE,
    TOKENIZER_FILE,
    Checkpoint,
    check_target,
    load_checkpoint,
    load_tensors,
    save_tensors,
)
from s4gen.checkpoint.files import CONSTANTS_FILE, MODEL_FILE
from s4gen.checkpoint.fitting import fitting
from s4gen.checkpoint.tensors import Header, check_finite
from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.atomic import current, write_atomic
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import read_bounded, sha256_of
from s4gen.models.ssm_layers import SSMLayer
from s4gen.sampling.certify import Certificate
from s4gen.sampling.convert import RecurrentModel, convert

CHECKPOINT_FILES = ("config.json", MODEL_FILE, TOKENIZER_FILE, "recipe.toml", "metrics.json", "README.md", CURVE_FILE)
CERTIFICATE_FILE = "certificate.json"

_HASH = expected.text(64)
_CERTIFICATE = expected.table(
    {
        "model_sha256": _HASH,
        "max_abs_logprob_difference": expected.number(0),
        "worst_sequence": expected.whole(),
        "worst_position": expected.whole(),
        "bits_per_dim_convolution": expected.number(),
        "bits_per_dim_recurrent": expected.number(),
        "n_sequences": expected.whole(1),
        "length": expected.whole(1),
        "tolerance": expected.number(0),
        "layer_differences": expected.mapping(expected.number(0)),
    },
    {"constants_sha256": _HASH},
)
"""This table checks a certificate's file. Those of earlier versions have no hash of the constants."""


def save_converted(
    checkpoint_path: str | Path,
    out: str | Path,
    recurrent: RecurrentModel,
    certificate: Certificate,
    overwrite: bool = False,
) -> None:
    """Write a converted checkpoint to `out`: the files of the original, the discrete constants and the certificate.

    `recurrent` is the result of `convert` for the checkpoint's model. The certificate holds the hashes of the model's
    file and of the constants, so that it is noticed if they no longer belong together.

    Raises:
        UserError: `out` exists (and `overwrite` is not set, or it is not a checkpoint), or cannot be written.
    """
    check_target(out, overwrite)
    checkpoint = current(Path(checkpoint_path)) or Path(checkpoint_path)

    def fill(folder: Path) -> None:
        for name in CHECKPOINT_FILES:
            if (checkpoint / name).exists():
                shutil.copyfile(checkpoint / name, folder / name)
        save_tensors(folder / CONSTANTS_FILE, _constants(recurrent))
        hashes = {
            "model_sha256": sha256_of(folder / MODEL_FILE),
            "constants_sha256": sha256_of(folder / CONSTANTS_FILE),
        }
        written = {**hashes, **asdict(certificate)}
        (folder / CERTIFICATE_FILE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")

    write_atomic(out, fill)


def load_recurrent(name_or_path: str | Path) -> RecurrentModel:
    """Load a checkpoint, given by path or shipped name, in its recurrent form.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or its constants are not those of its model.
    """
    return recurrent_of(load_checkpoint(name_or_path))


def recurrent_of(checkpoint: Checkpoint) -> RecurrentModel:
    """Return the recurrent form of a checkpoint: with the stored constants if it has them, else converted now.

    Raises:
        UserError: its constants are not those of its model.
    """
    recurrent = convert(checkpoint.model)
    folder = current(checkpoint.path) or checkpoint.path
    if os.path.lexists(folder / CONSTANTS_FILE):
        _restore_constants(recurrent, folder)
    # Weights that are finite may still have no finite discretisation.
    check_finite(_constants(recurrent), f"{checkpoint.path}, converted")
    return recurrent


def read_certificate(folder: Path) -> dict[str, Any]:
    """Return what the certificate in the folder of a converted checkpoint says.

    Raises:
        UserError: it is missing or damaged.
    """
    path, advice = folder / CERTIFICATE_FILE, "convert the original checkpoint again"
    try:
        found = _CERTIFICATE(json_value(read_bounded(path)), "")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else shortened(reason(error))
        raise UserError(f"{path} is missing or damaged ({why}); {advice}") from None
    return dict(found)


def _restore_constants(recurrent: RecurrentModel, folder: Path) -> None:
    advice = "convert the original checkpoint again"
    certified = read_certificate(folder)
    if certified["model_sha256"] != sha256_of(folder / MODEL_FILE):
        raise UserError(f"{folder / CONSTANTS_FILE} was not made from the {MODEL_FILE} beside it; {advice}")
    path = folder / CONSTANTS_FILE
    if "constants_sha256" not in certified:
        print(
            f"s4gen: {folder / CERTIFICATE_FILE} is of an earlier version, which did not say which constants it is of: "
            f"they are made again from the model; to keep them, {advice}",
            file=sys.stderr,
        )
        return
    own = _constants(recurrent)

    def check(header: Header) -> None:
        if {name: x.shape for name, x in header.tensors.items()} != {name: x.shape for name, x in own.items()}:
            raise UserError(f"{path} does not hold the constants of this model; {advice}")

    stored = load_tensors(path, check)
    if certified["constants_sha256"] != sha256_of(path):
        raise UserError(f"{path} is not what the certificate beside it was given for; {advice}")
    for name, value in fitting(stored, own, path).items():
        own[name].copy_(value)  # these are the stepper's own tensors, so this changes the stepper


def _constants(recurrent: RecurrentModel) -> dict[str, Tensor]:
    """Return the tensors of all step forms that conversion put in, by name; they are the stepper's own."""
    return {
        f"{name}.{key}": tensor
        for name, mixer in recurrent.source.named_modules()
        if isinstance(mixer, SSMLayer)
        for key, tensor in recurrent.stepper.get_submodule(name).state_dict().items()
    }
