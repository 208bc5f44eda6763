"""The state of a training run between two steps, and how it is started, saved and resumed.

It consists of weights, running mean, moments of the optimisers, random state and, on text, the model's state after the
last step. The order of the data is a function of seed and step, so the step alone says where in the data the run is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4gen.checkpoint import (
    check_target,
    fill_checkpoint,
    load_any,
    save_checkpoint,
    save_tensors,
)
from s4gen.checkpoint.fitting import fitting
from s4gen.config import Recipe, TextLayout
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.files.atomic import current, write_atomic
from s4gen.files.reading import sha256_of
from s4gen.models.build import AnyConfig, AnyModel, build_model
from s4gen.models.density import ModelState
from s4gen.models.states import leaves, map_tensors
from s4gen.train.compiled import compile_blocks
from s4gen.train.folder import BEST, CHECKPOINT
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import joined_states
from s4gen.train.saved import (
    ADAMW,
    MUON,
    STATE_FILE,
    TENSORS_FILE,
    carried_states,
    read_progress,
    read_state,
    restore_random,
)
from s4gen.train.spread import Whole

OPTIMIZER_STATE = (*ADAMW, *MUON)
"""The names of the tensors that the optimisers keep for a parameter."""


@dataclass
class Best:
    """The best evaluation so far."""

    value: float | None = None
    """The first of the task's measures, of which less is better; None before the first evaluation."""
    step: int = 0
    """The step of the best evaluation."""
    since: int = 0
    """How many evaluations there were after the best."""

    def improved(self, value: float, step: int) -> bool:
        """Record an evaluation, and return whether it is a new best."""
        # `not <` and not `>=`: NaN is no improvement.
        if self.value is not None and not value < self.value:
            self.since += 1
            return False
        self.value, self.step, self.since = value, step, 0
        return True


@dataclass
class TrainingRun:
    """A training run between two steps."""

    recipe: Recipe
    model: AnyModel
    mean: dict[str, Tensor]
    """The running mean of the weights, by their names; this is what is evaluated and published."""
    optimizers: list[torch.optim.Optimizer]
    step: int
    """Optimiser steps done."""
    seconds: float
    """Wall time of training so far, over all resumptions."""
    tokenizer: Tokenizer | None = None
    """The tokeniser of a run on text."""
    carried: list[ModelState] = field(default_factory=list)
    """On text, the state of each part of the batch after the last step; empty before the first step."""
    best: Best = field(default_factory=Best)
    """The best evaluation so far; kept only with `train.patience`."""
    spread: Whole = None  # type: ignore[assignment]
    """How the work of a step is shared with other ranks; by default it is not."""

    def __post_init__(self) -> None:
        self.spread = self.spread or Whole(self.model)

    @property
    def out_of_patience(self) -> bool:
        """Whether there were as many evaluations without a new best as `train.patience` allows; 0 allows any number."""
        return 0 < self.recipe.train.patience <= self.best.since


def start(recipe: Recipe, config: AnyConfig, device: torch.device, tokenizer: Tokenizer | None = None) -> TrainingRun:
    """Return a new run of a model of this configuration.

    It seeds torch's global generator, from which initialisation and dropout draw.
    """
    torch.manual_seed(recipe.train.seed)
    model = build_model(config).to(device)
    _prepare(model, recipe)
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return TrainingRun(
        recipe, model, mean, build_optimizers(model, recipe.optim, recipe.train.precision), 0, 0.0, tokenizer
    )


def _prepare(model: AnyModel, recipe: Recipe) -> None:
    """Set what a recipe asks of the model beyond its configuration."""
    model.recompute = recipe.train.checkpoint_activations
    if recipe.train.compile:
        compile_blocks(model)


def mean_model(training: TrainingRun) -> AnyModel:
    """Return a copy of the model with the running mean as its weights, in evaluation mode; all ranks must call this."""
    return _published(training, training.spread.whole(training.mean))


def _published(training: TrainingRun, mean: dict[str, Tensor]) -> AnyModel:
    """Return a model with these weights on the device of the run's model."""
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, but must not change what dropout draws
        model = build_model(training.model.config)
    state = training.model.state_dict() | mean  # buffers have no mean
    model.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, assign=True)
    return model.eval().to(next(training.model.parameters()).device)


def save(training: TrainingRun, out: Path, metrics: dict[str, Any], card: str, curve: bytes | None = None) -> None:
    """Replace the run's checkpoint by one that holds the running mean as its model, and all that a run resumes from.

    All ranks call this; rank 0 gathers their parts and writes.

    Args:
        training: the run.
        out: the folder of the run.
        metrics: what was measured, for metrics.json.
        card: Markdown for README.md.
        curve: a PNG of the learning curve, which the card may show.

    Raises:
        WriteError: the checkpoint cannot be written; the one before is then still there.
    """
    spread, accumulate = training.spread, training.recipe.train.accumulate
    mean = spread.whole(training.mean, everywhere=False)
    tensors = {f"weights.{name}": p for name, p in spread.whole(spread.parameters(), everywhere=False).items()}
    for key, found in moments(training).items():
        tensors |= {f"optimizer.{key}.{name}": x for name, x in _whole_moments(training, found).items()}
    carried = joined_states(spread.ranks, training.carried, accumulate)
    tensors |= {f"carried.{i}": torch.as_tensor(leaf) for i, leaf in enumerate(leaves(tuple(carried)))}
    if not spread.ranks.leads:
        return

    def fill(folder: Path) -> None:
        made: dict[str, Any] = {"recipe": training.recipe, "tokenizer": training.tokenizer}
        fill_checkpoint(folder, _published(training, mean), metrics=metrics, card=card, curve=curve, **made)
        tensors["rng.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        save_tensors(folder / TENSORS_FILE, tensors)
        progress = {"step": training.step, "seconds": training.seconds, "best": asdict(training.best)}
        progress["tensors_sha256"] = sha256_of(folder / TENSORS_FILE)
        (folder / STATE_FILE).write_text(json.dumps(progress) + "\n", encoding="utf-8")

    target = out / CHECKPOINT
    check_target(target, overwrite=True)
    # Only the writing is undisturbed. Gathering, above, may wait for a lost rank, and then this process must end.
    with spread.ranks.undisturbed():
        write_atomic(target, fill)


def moments(training: TrainingRun) -> dict[str, dict[str, Tensor]]:
    """Return what the optimisers remember, by the key of `OPTIMIZER_STATE` and then by the name of the parameter."""
    names = {id(parameter): name for name, parameter in training.spread.parameters().items()}
    found: dict[str, dict[str, Tensor]] = {}
    for optimizer in training.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                found.setdefault(key, {})[names[id(parameter)]] = value
    return found


def _whole_moments(training: TrainingRun, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors on rank 0 from the parts of one key of `moments`; other ranks get the counts alone."""
    counts = {name: x for name, x in found.items() if not x.dim()}  # AdamW's counts of steps, the same on all ranks
    return counts | training.spread.whole({name: x for name, x in found.items() if x.dim()}, everywhere=False)


def save_best(training: TrainingRun, mean: AnyModel, out: Path, metrics: dict[str, Any], card: str) -> None:
    """Replace the run's best model by an ordinary checkpoint of `mean`, which `mean_model` has made."""
    recipe, tokenizer = training.recipe, training.tokenizer
    target = out / BEST
    save_checkpoint(target, mean, recipe=recipe, metrics=metrics, card=card, tokenizer=tokenizer, overwrite=True)


def resume(out: Path, device: torch.device) -> TrainingRun:
    """Return the training run that was saved in the folder `out`, exactly as it was.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not out.is_dir():
        raise UserError(f"cannot resume {out}: there is no such folder")
    checkpoint = load_any(out / CHECKPOINT)
    folder = current(checkpoint.path) or checkpoint.path
    if checkpoint.recipe is None or not (folder / STATE_FILE).is_file():
        raise UserError(f"cannot resume {out}: {folder} holds a model, but no state of a training run")
    progress, path = read_progress(folder, checkpoint.recipe), folder / TENSORS_FILE
    tensors = read_state(folder, checkpoint.model, checkpoint.recipe, progress)
    carried = carried_states(checkpoint.model, checkpoint.recipe, tensors, path)
    model = checkpoint.model.train().to(device)
    tensors = {name: t.to(device) for name, t in tensors.items()}
    _prepare(model, checkpoint.recipe)
    # The model in a checkpoint is the running mean; the weights that training continues from are beside it.
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    weights = fitting(weights, mean, path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    optimizers = build_optimizers(model, checkpoint.recipe.optim, checkpoint.recipe.train.precision)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    remember(optimizers, names, tensors)
    tokenizer = checkpoint.tokenizer() if isinstance(model.config.layout, TextLayout) else None
    training = TrainingRun(checkpoint.recipe, model, mean, optimizers, progress["step"], progress["seconds"], tokenizer)
    training.carried = [map_tensors(lambda x: x.to(device), state) for state in carried]
    training.best = Best(**progress.get("best", {}))  # checkpoints of earlier versions have none
    restore_random(tensors, device, path)  # last, since what is above may draw
    return training


def remember(optimizers: list[torch.optim.Optimizer], names: dict[int, str], tensors: dict[str, Tensor]) -> None:
    """Put the tensors "optimizer.KEY.NAME" of a checkpoint into the optimisers; `names` maps id(parameter) to NAME."""
    for optimizer in optimizers:
        for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
            for key in OPTIMIZER_STATE:
                if (value := tensors.get(f"optimizer.{key}.{names[id(parameter)]}")) is not None:
                    optimizer.state[parameter][key] = value.float()
