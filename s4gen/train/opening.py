"""How a run gets under way: its task is opened, room in memory and on disk is checked, and it begins or goes on.

Whatever can be refused is refused before an older run in the folder is removed, so that a refusal costs nobody a run.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from s4gen.atomic import write_file_atomic
from s4gen.config import Recipe, kind_of, recipe_to_toml
from s4gen.data.text import Tokenizer
from s4gen.train import folder, starting, training_run
from s4gen.train.card import card
from s4gen.train.footprint import check_memory, checkpoint_bytes
from s4gen.train.images import ImageTask
from s4gen.train.pace import fitted
from s4gen.train.precision import chosen, settled
from s4gen.train.ranks import Ranks, check_evenly
from s4gen.train.tasks import Task
from s4gen.train.text import TextTask
from s4gen.train.together import announced, spread_out
from s4gen.train.training_run import TrainingRun


def open_task(recipe: Recipe, device: torch.device, tokenizer: Tokenizer | None = None, progress: bool = True) -> Task:
    """Open the task of a recipe; `tokenizer` is that of a run to go on with.

    With `progress`, the preparation of the data shows bars.

    Raises:
        UserError: the data are not there, or not what the recipe says.
    """
    kind = kind_of(recipe.data.dataset)
    if kind == "audio":
        from s4gen.train.audio import AudioTask

        return AudioTask(recipe, progress)
    return TextTask(recipe, tokenizer, progress) if kind == "text" else ImageTask(recipe, device, progress)


def go_on(out: Path, steps: int | None, ranks: Ranks, progress: bool) -> tuple[TrainingRun, Task]:
    """The run in a folder as its checkpoint has it."""
    training = training_run.resume(out, ranks.cradle)
    training.recipe = settled(training.recipe, ranks.device, begun=True)
    starting.lengthen(training, out, steps)
    task = open_task(training.recipe, ranks.device, training.tokenizer, progress)
    check_evenly(ranks, task.rows, training.recipe.train.accumulate)
    check_memory(training.recipe, task, ranks.device, ranks)
    _check_disk(training, out, copies=1)
    announced(ranks, training.recipe, task, out, to_fit=False)
    return spread_out(training, ranks), task


def begin(
    recipe: Recipe,
    out: Path,
    ranks: Ranks,
    progress: bool,
    start: str | Path | None = None,
    is_fitted: bool = True,
) -> tuple[TrainingRun, Task]:
    """A run at step 0, in the place of whatever run was in the folder. `is_fitted`: it has its number of steps."""
    device = ranks.device
    first = None if start is None else starting.open_start(start)
    task = open_task(recipe, device, None if first is None else starting.tokenizer_of(first, recipe), progress)
    if first is not None:
        starting.check_layout(first, task.layout)
    check_evenly(ranks, task.rows, recipe.train.accumulate)
    check_memory(chosen(recipe, device), task, device, ranks)  # before anything is said: a refusal is one line
    recipe = settled(recipe, device)
    announced(ranks, recipe, task, out, to_fit=not is_fitted)
    if not is_fitted:
        recipe = fitted(recipe, task, ranks.device, ranks)
    training = training_run.start(recipe, task.layout, ranks.cradle, task.tokenizer)
    if first is not None:
        starting.take_weights(training, first)
    _check_disk(training, out, copies=2, reclaimed=folder.size_of_run(out))
    folder.clear(out)
    if first is not None:  # a recipe does not say where weights came from, so a run cannot begin again from it alone
        training_run.save(training, out, {"step": 0}, card(training, task, None))
    write_file_atomic(out / folder.RECIPE, recipe_to_toml(recipe).encode())
    return spread_out(training, ranks), task


def _check_disk(training: TrainingRun, out: Path, copies: int, reclaimed: int = 0) -> None:
    """`folder.check_disk` for a run that is to write `copies` checkpoints before one is removed."""
    train = training.recipe.train
    saves = math.ceil((train.steps - training.step) / train.save_every)
    whole, best = checkpoint_bytes(training.model, training.recipe.optim)
    folder.check_disk(out, min(saves, copies) * (whole + (best if train.patience else 0)), reclaimed)
