"""The time of a step on this machine, and the number of steps that fit into a given time."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time

import torch

from s4gen.config import Recipe
from s4gen.train.precision import settled
from s4gen.train.ranks import Ranks
from s4gen.train.step import training_step
from s4gen.train.tasks import Task
from s4gen.train.together import spread_out
from s4gen.train.training_run import start

WARM_UP, MEASURED = 3, 30
"""Steps before time is taken, and steps that are timed; fewer where they would take a twentieth of the time to fill."""


def fitted(recipe: Recipe, task: Task, device: torch.device, ranks: Ranks | None = None) -> Recipe:
    """The recipe with the number of steps that `train.minutes` has room for; itself where no minutes are given.

    The warm-up of the learning rate is a tenth of them at most. The steps that are measured are forgotten: the run
    begins from its seed all the same. All ranks call this, and get the same.
    """
    if recipe.train.minutes is None:
        return recipe
    per_step = seconds_per_step(recipe, task, device, 60 * recipe.train.minutes / 20, ranks)
    found = filling(recipe, per_step)
    if ranks is None or ranks.leads:
        print(
            f"s4gen: {per_step:.3f} s a step, so {found.train.steps:,} steps in {recipe.train.minutes:g} minutes",
            file=sys.stderr,
        )
    return found


def filling(recipe: Recipe, per_step: float) -> Recipe:
    """Give the recipe as many steps of `per_step` seconds as fit into its `train.minutes`, which have to be set."""
    assert recipe.train.minutes is not None
    steps = max(1, round(60 * recipe.train.minutes / per_step))
    train = dataclasses.replace(recipe.train, steps=steps)
    warmup = min(recipe.optim.warmup_steps, math.ceil(steps / 10))
    return dataclasses.replace(recipe, train=train, optim=dataclasses.replace(recipe.optim, warmup_steps=warmup))


def seconds_per_step(
    recipe: Recipe, task: Task, device: torch.device, budget: float, ranks: Ranks | None = None
) -> float:
    """The mean time of a step of a fresh run, in seconds; after the first, no step is begun after `budget` seconds.

    The first step, which compiles what is to be compiled, is not counted, and others that warm up only if there is
    time for no more. With many ranks it is the time of rank 0, so that all of them take as many steps.
    """
    ranks = ranks or Ranks(device=device)
    training = spread_out(start(settled(recipe, device), task.layout, ranks.cradle, task.tokenizer), ranks)
    training.model.train()
    times: list[float] = []
    for step in range(1 + WARM_UP + MEASURED):
        if len(times) > 1 and sum(times[1:]) > budget:
            break
        before = time.perf_counter()
        training_step(training, task.batch(step).to(device))  # it reads the loss, so the device has finished
        seconds = time.perf_counter() - before
        times.append(float(ranks.from_leader(functools.partial(float, seconds))))
    measured = times[1 + WARM_UP :] or times[-1:]
    return sum(measured) / len(measured)
