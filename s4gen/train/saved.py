"""Save the state of a run beside its model, and check whether a saved state can be true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4gen.checkpoint import load_tensors, read_json
from s4gen.checkpoint.tensors import Header
from s4gen.config import Recipe
from s4gen.errors import UserError
from s4gen.files import expected
from s4gen.files.reading import sha256_of
from s4gen.models.build import AnyModel
from s4gen.models.density import ModelState
from s4gen.models.plausible import check_state
from s4gen.models.predictor import Predictor
from s4gen.models.states import from_named, leaves

STATE_FILE, TENSORS_FILE = "training.json", "training.safetensors"
ADAMW, MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""The tensors that each optimiser keeps for a parameter: all of them, or none before the first gradient."""
_CUDA_STATE = 16
"""Bytes of the state of a GPU's generator."""


def read_progress(folder: Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Return how far the run in a checkpoint is: step, seconds, best evaluation and the hash of its tensors.

    With the recipe, no more steps are believed than that has.

    Raises:
        UserError: the file is missing or damaged.
    """
    steps = expected.LARGEST if recipe is None else recipe.train.steps
    step, count = expected.whole(most=steps), expected.whole()
    best = expected.table({"value": expected.optional(expected.number(finite=False)), "step": step, "since": count})
    check = expected.table(
        {"step": step, "seconds": expected.number(0, 1e12)},
        {"best": best, "tensors_sha256": expected.text(64)},  # checkpoints of earlier versions have neither
    )
    return read_json(folder / STATE_FILE, check, finite=False)


def read_state(folder: Path, model: AnyModel, recipe: Recipe, progress: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the run in a checkpoint: weights, moments of the optimisers, random and carried states.

    Raises:
        UserError: the file is missing or damaged, or its tensors are not those of this run.
    """
    path = folder / TENSORS_FILE
    parameters = dict(model.named_parameters())

    def check(header: Header) -> None:
        try:
            _check_names(header.tensors, parameters)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); start the run again, or take another checkpoint") from None

    tensors = load_tensors(path, check)
    if progress.get("tensors_sha256", digest := sha256_of(path)) != digest:
        raise UserError(f"{path} is damaged: it is not what {STATE_FILE} was written for; take another checkpoint")
    for name, value in tensors.items():
        if name.startswith("optimizer.step.") and not 0 <= float(value) <= progress["step"]:
            raise UserError(f"{path} is damaged ({name} is not a step of this run); take another checkpoint")
    return tensors


def _check_names(found: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a tensor of a run that has another name, type or shape than `train.training_run` saves."""
    for name, tensor in found.items():
        head, _, rest = name.partition(".")
        if head == "optimizer":
            key, _, rest = rest.partition(".")
            head = head if key in (*ADAMW, *MUON) else ""
            shape = () if key == "step" else parameters[rest].shape if rest in parameters else ()
        if head in ("weights", "optimizer"):
            if rest not in parameters:
                raise ValueError(f"tensor {name[:100]} belongs to no parameter")
            shape = parameters[rest].shape if head == "weights" else shape
            if tensor.shape != shape or not tensor.dtype.is_floating_point:
                raise ValueError(f"tensor {name[:100]} has another form")
        elif head == "rng":
            size = {"rng.cpu": torch.get_rng_state().numel(), "rng.cuda": _CUDA_STATE}.get(name)
            if tensor.dtype != torch.uint8 or tensor.shape != (size,):
                raise ValueError(f"tensor {name[:100]} is no state of a random generator")
        elif head != "carried":
            raise ValueError(f"tensor {name[:100]} is unknown")
    if "rng.cpu" not in found:
        raise ValueError("the random state is missing")
    for name in parameters:
        if f"weights.{name}" not in found:
            raise ValueError(f"tensor weights.{name} is missing")
        for keys in (ADAMW, MUON):
            if len({f"optimizer.{key}.{name}" in found for key in keys}) > 1:
                raise ValueError(f"the memory of the optimiser of {name} is not whole")


def carried_states(model: AnyModel, recipe: Recipe, tensors: Mapping[str, Tensor], path: Path) -> list[ModelState]:
    """Put the states together that a run on text carries on, one for each part of a batch; others carry none.

    Raises:
        UserError: they are not those of such a model and batch; the message names `path`, the file.
    """
    found = {name.replace("carried.", "state."): x for name, x in tensors.items() if name.startswith("carried.")}
    if not found:
        return []
    if isinstance(model, Predictor):
        raise UserError(f"{path} is damaged (a predictor carries no state); take another checkpoint")
    parts = recipe.train.accumulate
    template = (model.initial_state(1),) * parts
    try:
        if len(found) != sum(1 for _ in leaves(template)):
            raise ValueError("parts of the carried state are missing or superfluous")
        states = from_named(template, found, recipe.train.batch_size // parts, any_precision=True)
        for state in states:
            check_state(model, state)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); start the run again, or take another checkpoint") from None
    return list(states)


def restore_random(tensors: Mapping[str, Tensor], device: torch.device, path: Path) -> None:
    """Set torch's generators to the states that were saved.

    Raises:
        UserError: a state is none of a generator.
    """
    try:
        torch.set_rng_state(tensors["rng.cpu"].cpu())
        if "rng.cuda" in tensors and device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"].cpu())
    except RuntimeError as error:
        raise UserError(f"{path} is damaged (random state: {error}); take another checkpoint") from None
