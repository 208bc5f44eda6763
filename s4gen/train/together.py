"""How many ranks begin or go on with one run: rank 0 decides everything, and gives the others what they need for it.

The folder of the run, and whatever a run begins from, is read by rank 0 alone; the others get the recipe, the weights
and all that a run remembers from it. Data are read by every rank, and prepared by one rank of each host.
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
from s4gen.train.shards import Shards
from s4gen.train.spread import Copies
from s4gen.train.tasks import Task
from s4gen.train.training_run import Best, TrainingRun, moments, remember

OpenTask = Callable[[Recipe, Tokenizer | None], Task]


def announced(ranks: Ranks, recipe: Recipe, task: Task, out: Path, to_fit: bool) -> None:
    """Let rank 0, which has opened its task, tell the others what the run is, and wait until they have opened theirs.

    `to_fit`: its number of steps is still to be found from `train.minutes`.
    """
    if ranks.alone:
        return
    tokenizer = None if task.tokenizer is None else task.tokenizer.to_json()
    plan = {"recipe": recipe_to_toml(recipe), "tokenizer": tokenizer, "out": str(out), "to_fit": to_fit}
    ranks.from_leader(lambda: plan)
    _know_how_to_go_on(ranks, str(out))
    _in_turn(ranks, lambda: task)


def heard(ranks: Ranks, open_task: OpenTask) -> tuple[Recipe, Task, bool]:
    """Do the part of every other rank in `announced`.

    Returns the recipe, this rank's task, and whether the number of steps is still to be found.

    Raises:
        UserError: the data on this host are missing, or others than those of rank 0.
    """
    plan = ranks.from_leader(dict)
    _know_how_to_go_on(ranks, plan["out"])
    recipe: Recipe = build_recipe(flatten(tomllib.loads(plan["recipe"]), RECIPE_SECTIONS, "rank 0"), "rank 0")
    text = plan["tokenizer"]
    tokenizer = None if text is None else from_json(text, "the tokeniser of rank 0")
    return recipe, _in_turn(ranks, lambda: open_task(recipe, tokenizer)), plan["to_fit"]


def _know_how_to_go_on(ranks: Ranks, out: str) -> None:
    if ranks.watch is not None:
        ranks.watch.goes_on(f"go on with s4gen train --resume {out}, by torchrun or without")


def _in_turn(ranks: Ranks, open_task: Callable[[], Task]) -> Task:
    """Open the task on one rank of each host, which downloads and prepares, and then on the others."""
    task = open_task() if ranks.local_rank == 0 else None
    ranks.wait()
    task = open_task() if task is None else task
    ranks.wait()
    first = task.batch(0).tokens
    digest = zlib.crc32(first.cpu().numpy().tobytes())
    if digest != ranks.from_leader(lambda: digest):
        raise UserError(
            f"the data on {socket.gethostname()}, rank {ranks.rank}, are others than those of rank 0: give all hosts "
            "the same data and the same version of s4gen"
        )
    return task


def spread_out(training: TrainingRun, ranks: Ranks) -> TrainingRun:
    """Give all ranks what rank 0's run has, and share the work of its steps among them; return the run."""
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
        spread: Copies = Shards(training.model, ranks)  # which goes to the device part by part
    else:
        spread = Copies(training.model.to(ranks.device), ranks)
    training.spread = spread
    own = spread.parameters()
    training.mean = {name: spread.part(name, x).to(own[name].device) for name, x in training.mean.items()}
    training.optimizers = spread.optimizers(settings.optim, settings.train.precision)
    parts = {
        f"optimizer.{name}": spread.part(name.partition(".")[2], x).to(ranks.device) for name, x in remembered.items()
    }
    remember(training.optimizers, {id(parameter): name for name, parameter in own.items()}, parts)
    training.carried = own_states(ranks, states, settings.train.accumulate)
    return training


@torch.no_grad()
def _copy_from_leader(tensors: dict[str, Tensor], ranks: Ranks) -> None:
    for name, found in ranks.tensors_from_leader(tensors if ranks.leads else {}).items():
        if not ranks.leads:
            tensors[name].copy_(found)


def _states_from_leader(training: TrainingRun, ranks: Ranks) -> list[Any]:
    """Return on every rank the states of all rows that rank 0 has."""
    plain = {str(i): torch.as_tensor(leaf) for i, leaf in enumerate(leaves(tuple(training.carried)))}
    found = ranks.tensors_from_leader(plain if ranks.leads else {})
    if ranks.leads or not found:
        return training.carried
    template = (training.model.initial_state(1),) * training.recipe.train.accumulate
    values = zip(found.values(), leaves(template), strict=True)
    return list(rebuilt(template, (x if isinstance(leaf, Tensor) else int(x) for x, leaf in values)))
