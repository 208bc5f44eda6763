"""Get a run under way: open its task, check that memory and disk suffice, and begin it or resume it.

Whatever can be refused is refused before an older run in the folder is removed, so that a refusal costs nobody a run.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from s4gen.config import Recipe, kind_of, recipe_to_toml
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic
from s4gen.train import folder, starting, training_run
from s4gen.train.card import card
from s4gen.train.footprint import check_memory, checkpoint_bytes
from s4gen.train.images import ImageTask
from s4gen.train.precision import chosen, settled
from s4gen.train.ranks import Ranks, check_evenly
from s4gen.train.steps_in_time import fitted
from s4gen.train.tasks import Task
from s4gen.train.text import TextTask
from s4gen.train.together import announced, spread_out
from s4gen.train.training_run import TrainingRun


def open_task(recipe: Recipe, device: torch.device, tokenizer: Tokenizer | None = None, progress: bool = True) -> Task:
    """Open the data of a recipe and return its task.

    Args:
        recipe: says what the data are.
        device: where training images are kept.
        tokenizer: for text, that of the run or checkpoint to continue from; None prepares the recipe's own.
        progress: show bars while data are prepared.

    Raises:
        UserError: the data are missing, or are not what the recipe says.
    """
    if recipe.task.kind == "forecast":
        from s4gen.train.forecasting import ForecastTask

        return ForecastTask(recipe, progress)
    if recipe.task.kind != "density":
        from s4gen.train.examples import ExampleTask

        return ExampleTask(recipe, progress)
    kind = kind_of(recipe.data.dataset)
    if kind == "audio":
        from s4gen.train.audio import AudioTask

        return AudioTask(recipe, progress)
    return TextTask(recipe, tokenizer, progress) if kind == "text" else ImageTask(recipe, device, progress)


def go_on(out: Path, steps: int | None, ranks: Ranks, progress: bool) -> tuple[TrainingRun, Task]:
    """Continue the run in the folder `out` from its checkpoint; `steps` may change its length. Rank 0 calls this.

    Raises:
        UserError: there is no such run, it has already taken as many steps, or memory or disk is too small.
    """
    training = training_run.resume(out, ranks.build_device)
    training.recipe = settled(training.recipe, ranks.device, begun=True)
    starting.lengthen(training, out, steps)
    task = open_task(training.recipe, ranks.device, training.tokenizer, progress)
    check_norms(ranks, training.recipe)
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
    """Begin a run at step 0, in the place of any run that is in the folder. Rank 0 calls this.

    Args:
        recipe: what to train.
        out: the folder of the run.
        ranks: the processes that train together.
        progress: show bars while data are prepared.
        start: a checkpoint whose weights the run begins from; None takes that of the recipe, if it names one.
        is_fitted: the number of steps is final. If not, it is found from `train.minutes`, where that is set.

    Raises:
        UserError: the data or the checkpoint are missing or do not fit, or memory or disk is too small.
    """
    device = ranks.device
    start = start or recipe.train.start or None
    first = None if start is None else starting.open_start(start)
    task = open_task(recipe, device, None if first is None else starting.tokenizer_of(first, recipe), progress)
    if first is not None:
        starting.check_start(first, task.config(recipe).layout, task.tokenizer)
    check_norms(ranks, recipe)
    check_evenly(ranks, task.rows, recipe.train.accumulate)
    check_memory(chosen(recipe, device), task, device, ranks)  # before `settled` prints: a refusal is one line alone
    recipe = settled(recipe, device)
    announced(ranks, recipe, task, out, to_fit=not is_fitted)
    if not is_fitted:
        recipe = fitted(recipe, task, ranks.device, ranks)
    training = training_run.start(recipe, task.config(recipe), ranks.build_device, task.tokenizer)
    if first is not None:
        starting.take_weights(training, first)
    _check_disk(training, out, copies=2, reclaimed=folder.size_of_run(out))
    folder.clear(out)
    if first is not None:
        # A recipe does not say which weights a run began from. Without this checkpoint the run could not be resumed.
        training_run.save(training, out, {"step": 0}, card(training, task, None))
    write_file_atomic(out / folder.RECIPE, recipe_to_toml(recipe).encode())
    return spread_out(training, ranks), task


def check_norms(ranks: Ranks, recipe: Recipe) -> None:
    """Refuse many ranks where a norm looks at the whole batch, of which every rank has a part.

    Raises:
        UserError: there are many, and the model has batch norms.
    """
    if recipe.model.batch_norm and not ranks.alone:
        raise UserError(
            f"model.batch_norm = true does not go with {ranks.world} ranks, each of which sees only its rows of a "
            "batch: train in one process, or set it to false"
        )


def _check_disk(training: TrainingRun, out: Path, copies: int, reclaimed: int = 0) -> None:
    """Refuse a run whose checkpoints do not fit on the disk, where up to `copies` are written before one is removed."""
    train = training.recipe.train
    saves = math.ceil((train.steps - training.step) / train.save_every)
    whole, best = checkpoint_bytes(training.model, training.recipe.optim)
    folder.check_disk(out, min(saves, copies) * (whole + (best if train.patience else 0)), reclaimed)
