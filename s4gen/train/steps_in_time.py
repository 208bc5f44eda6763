"""Measure how long a step takes on this machine, and find how many steps fit into a given time."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time

import torch

from s4gen.config import Recipe
from s4gen.showing.words import plural
from s4gen.train.precision import settled
from s4gen.train.ranks import Ranks
from s4gen.train.step import training_step
from s4gen.train.tasks import Task
from s4gen.train.together import spread_out
from s4gen.train.training_run import start

WARM_UP, MEASURED = 3, 30
"""The numbers of steps that warm up and that are timed. There are fewer if they would take more than the budget."""


def fitted(recipe: Recipe, task: Task, device: torch.device, ranks: Ranks | None = None) -> Recipe:
    """Return the recipe with as many steps as fit into `train.minutes`, or the recipe itself if that is not set.

    The warm-up of the learning rate is at most a tenth of the steps. The measured steps are thrown away, so the run
    begins from its seed. All ranks call this and get the same recipe. It prints what it found.
    """
    if recipe.train.minutes is None:
        return recipe
    budget = 60 * recipe.train.minutes / 20  # measuring may cost a twentieth of the time that is to be filled
    per_step = seconds_per_step(recipe, task, device, budget, ranks)
    found = filling(recipe, per_step)
    if ranks is None or ranks.leads:
        print(
            f"s4gen: {per_step:.3f} s a step, so {plural(found.train.steps, 'step')} in "
            f"{recipe.train.minutes:g} minutes",
            file=sys.stderr,
        )
    return found


def filling(recipe: Recipe, per_step: float) -> Recipe:
    """Return the recipe with as many steps of `per_step` seconds as fit into its `train.minutes`, which must be set."""
    assert recipe.train.minutes is not None
    steps = max(1, round(60 * recipe.train.minutes / per_step))
    train = dataclasses.replace(recipe.train, steps=steps)
    warmup = min(recipe.optim.warmup_steps, math.ceil(steps / 10))
    return dataclasses.replace(recipe, train=train, optim=dataclasses.replace(recipe.optim, warmup_steps=warmup))


def seconds_per_step(
    recipe: Recipe, task: Task, device: torch.device, budget: float, ranks: Ranks | None = None
) -> float:
    """Return the mean time of a step of a new run, in seconds.

    Steps are taken for `budget` seconds, not counting the first one, which may compile. Warm-up steps count only if
    there is no time for others. With many ranks it is the time on rank 0, so that all of them take equally many steps.
    """
    ranks = ranks or Ranks(device=device)
    training = spread_out(
        start(settled(recipe, device), task.config(recipe), ranks.build_device, task.tokenizer), ranks
    )
    training.model.train()
    times: list[float] = []
    for step in range(1 + WARM_UP + MEASURED):
        if len(times) > 1 and sum(times[1:]) > budget:
            break
        before = time.perf_counter()
        training_step(training, task.batch(step).to(device))  # reads the loss, and so waits for the device
        seconds = time.perf_counter() - before
        times.append(float(ranks.from_leader(functools.partial(float, seconds))))
    measured = times[1 + WARM_UP :] or times[-1:]
    return sum(measured) / len(measured)
