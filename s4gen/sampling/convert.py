"""The converter: it turns a trained model into discrete recurrences, and saves and loads converted checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s4gen.checkpoint import (
    CURVE_FILE,
    TOKENIZER_FILE,
    Checkpoint,
    check_target,
    load_checkpoint,
    load_tensors,
    save_tensors,
)
from s4gen.checkpoint.fitting import fitting
from s4gen.checkpoint.tensors import Header, check_finite
from s4gen.config import DensityConfig
from s4gen.errors import UserError, shortened
from s4gen.evaluate.scorers import fed, nats_by_steps
from s4gen.files import expected
from s4gen.files.atomic import current, write_atomic
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import read_bounded, sha256_of
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.ssm_layers import SSMLayer
from s4gen.models.states import contiguous
from s4gen.sampling.steps import twins

if TYPE_CHECKING:
    from s4gen.sampling.certify import Certificate

MODEL_FILE = "model.safetensors"
CHECKPOINT_FILES = ("config.json", MODEL_FILE, TOKENIZER_FILE, "recipe.toml", "metrics.json", "README.md", CURVE_FILE)
CONSTANTS_FILE = "recurrent.safetensors"
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


class RecurrentModel(nn.Module):
    """Two frozen views of one density model: `source` runs by convolution, `stepper` by recurrence.

    In the stepper a step form (Abar, Bbar, Cbar) stands in the place of every state space layer; all its other tensors
    are the source's own. Both views share one form of state, so a prompt can be read by convolution and then continued
    step by step.
    """

    def __init__(self, source: DensityModel, stepper: DensityModel) -> None:
        super().__init__()
        self.source = source
        self.stepper = stepper

    @property
    def config(self) -> DensityConfig:
        """The configuration of the model."""
        return self.source.config

    @property
    def bos(self) -> int:
        """The token that stands in front of every sequence."""
        return self.source.bos

    @property
    def device(self) -> torch.device:
        """The device on which both views are."""
        return self.source.device

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """Return the state of `batch` rows before bos is fed; label int64 (B,) holds their classes, 0 if not given."""
        return self.stepper.initial_state(batch, label)

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed token int64 (B,) by recurrence; return logits r(B, V) for the next one and the new state.

        The first token that a row is fed must be bos.
        """
        return self.stepper.step(token, state)

    def prefill(
        self, x: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Read x int64 (B, L) by convolution; return logits r(B, V) for the token after it, and the state.

        Without a state, bos is put in front of x, and L may be 0. `label` int64 (B,) counts only there; a state knows
        its labels.
        """
        logits, state = self.source.prefill(x, state, label=label)
        return logits, contiguous(state)

    @torch.no_grad()
    def nats_recurrent(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Score x int64 (B, L) by recurrence, without an engine; return -log p(x_t | x_<t) in nats, float64 (B, L)."""
        state = self.initial_state(len(x), label)

        def feed(token: Tensor) -> Tensor:
            nonlocal state
            logits, state = self.step(token, state)
            return logits

        return nats_by_steps(feed, fed(x, self.bos), x)


@torch.no_grad()
def convert(model: DensityModel) -> RecurrentModel:
    """Convert a model to its recurrent form. The model is copied: it stays as it is, and later changes do not count."""
    return RecurrentModel(*twins(model))


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
