"""Let many ranks begin or resume one run. Rank 0 decides everything and sends the others what they need.

Only rank 0 reads the folder of the run, and whatever the run begins from. It sends the others the recipe, the weights
and everything that a run remembers. Data are read by every rank, and prepared by one rank of each host.
"""

from __future__ import annotations

import dataclasses
import socket
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4gen.config import Recipe
from s4gen.config.recipes import RECIPE_SECTIONS, recipe_to_toml
from s4gen.config.strict import build_recipe, flatten
from s4gen.data.text import Tokenizer, from_json
from s4gen.errors import UserError
from s4gen.models.states import leaves, rebuilt
from s4gen.train.ranks import Ranks, own_states
from s4gen.train.spread import Copies
from s4gen.train.tasks import Task
from s4gen.train.training_run import Best, TrainingRun, moments, remember

OpenTask = Callable[[Recipe, Tokenizer | None], Task]
"""(recipe, tokeniser of a run on text) -> task. Given by the caller, which knows the tasks."""


def announced(ranks: Ranks, recipe: Recipe, task: Task, out: Path, to_fit: bool) -> None:
    """Send the other ranks the recipe of the run, and wait until they have opened their tasks; rank 0 calls this.

    Args:
        ranks: the processes that train together.
        recipe: what is trained.
        task: the task of rank 0.
        out: the folder of the run, for messages.
        to_fit: the number of steps is still to be found from `train.minutes`.
    """
    if ranks.alone:
        return
    tokenizer = None if task.tokenizer is None else task.tokenizer.to_json()
    plan = {"recipe": recipe_to_toml(recipe), "tokenizer": tokenizer, "out": str(out), "to_fit": to_fit}
    ranks.from_leader(lambda: plan)
    _know_how_to_go_on(ranks, str(out))
    _in_turn(ranks, lambda: task)


def receive_recipe(ranks: Ranks, open_task: OpenTask) -> tuple[Recipe, Task, bool]:
    """Receive what rank 0 sends by `announced`; all other ranks call this.

    Returns the recipe, this rank's task, and whether the number of steps is still to be found.

    Raises:
        UserError: the data on this host are missing, or differ from those of rank 0.
    """
    plan = ranks.from_leader(dict)
    _know_how_to_go_on(ranks, plan["out"])
    recipe: Recipe = build_recipe(flatten(tomllib.loads(plan["recipe"]), RECIPE_SECTIONS, "rank 0"), "rank 0")
    text = plan["tokenizer"]
    tokenizer = None if text is None else from_json(text, "the tokeniser of rank 0")
    return recipe, _in_turn(ranks, lambda: open_task(recipe, tokenizer)), plan["to_fit"]


def _know_how_to_go_on(ranks: Ranks, out: str) -> None:
    """Give the watch the command that its line about a lost rank ends with."""
    if ranks.watch is not None:
        ranks.watch.goes_on(f"go on with s4gen train --resume {out}, by torchrun or without")


def _in_turn(ranks: Ranks, open_task: Callable[[], Task]) -> Task:
    """Open the task on one rank of each host, which downloads and prepares the data, and then on the others.

    Raises:
        UserError: the first batch is not that of rank 0.
    """
    task = open_task() if ranks.local_rank == 0 else None
    ranks.wait()
    task = open_task() if task is None else task
    ranks.wait()
    first = task.batch(0).read
    digest = zlib.crc32(first.cpu().numpy().tobytes())
    if digest != ranks.from_leader(lambda: digest):
        raise UserError(
            f"the data on {socket.gethostname()}, rank {ranks.rank}, differ from those of rank 0: give all hosts "
            "the same data and the same version of s4gen"
        )
    return task


def spread_out(training: TrainingRun, ranks: Ranks) -> TrainingRun:
    """Copy the run of rank 0 to all ranks, and share the work of its steps among them; return the run.

    Weights, running mean, moments and states are sent whole, and each rank keeps the part that is its own.
    """
    if ranks.alone:
        return training
    progress = ranks.from_leader(
        lambda: {"step": training.step, "seconds": training.seconds, "best": dataclasses.asdict(training.best)}
    )
    training.step, training.seconds, training.best = progress["step"], progress["seconds"], Best(**progress["best"])
    _copy_from_leader(training.model.state_dict(), ranks)
    _copy_from_leader(training.mean, ranks)
    known = {f"{key}.{name}": x for key, found in moments(training).items() for name, x in found.items()}
    remembered = ranks.tensors_from_leader(known if ranks.leads else {})
    states = _states_from_leader(training, ranks)
    settings = training.recipe
    if settings.train.shard:
        from s4gen.train.shards import Shards  # FSDP takes a second to import

        spread: Copies = Shards(training.model, ranks)  # moves the model to the device part by part
    else:
        spread = Copies(training.model.to(ranks.device), ranks)
    training.spread = spread
    own = spread.parameters()
    training.mean = {name: spread.part(name, x).to(own[name].device) for name, x in training.mean.items()}
    # The optimisers are made anew, since those of `start` and `resume` may hold other tensors than `own`.
    training.optimizers = spread.optimizers(settings.optim, settings.train.precision)
    parts = {
        f"optimizer.{name}": spread.part(name.partition(".")[2], x).to(ranks.device) for name, x in remembered.items()
    }
    remember(training.optimizers, {id(parameter): name for name, parameter in own.items()}, parts)
    training.carried = own_states(ranks, states, settings.train.accumulate)
    return training


@torch.no_grad()
def _copy_from_leader(tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Overwrite these tensors on every rank with those of rank 0."""
    for name, found in ranks.tensors_from_leader(tensors if ranks.leads else {}).items():
        if not ranks.leads:
            tensors[name].copy_(found)


def _states_from_leader(training: TrainingRun, ranks: Ranks) -> list[Any]:
    """Return rank 0's states of all rows on every rank; the other ranks hold none before this."""
    plain = {str(i): torch.as_tensor(leaf) for i, leaf in enumerate(leaves(tuple(training.carried)))}
    found = ranks.tensors_from_leader(plain if ranks.leads else {})
    if ranks.leads or not found:
        return training.carried
    template = (training.model.initial_state(1),) * training.recipe.train.accumulate
    values = zip(found.values(), leaves(template), strict=True)
    return list(rebuilt(template, (x if isinstance(leaf, Tensor) else int(x) for x, leaf in values)))
