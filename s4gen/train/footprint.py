"""Estimate how much memory a training run will take, before it begins.

What stays from step to step (weights, gradients, moments) is counted. What a step keeps for its gradient is measured on
one and on two sequences, and extrapolated to the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.config import DensityConfig, OptimConfig, Recipe
from s4gen.errors import UserError
from s4gen.machine.memory import available_bytes, check_room
from s4gen.models.build import MOST_NUMBERS, AnyConfig, AnyModel, TooLargeError, build_model, build_shapes
from s4gen.train.batches import Batch
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import Task

LIBRARIES = 150_000_000
"""Bytes by which a process grows in its first step on a CPU, whatever the model: libraries are loaded on first use."""
HOLES = 0.35
"""The share of the bytes kept by all blocks that the C library's heap loses between tensors.

It loses as much when blocks are computed again. Measured with glibc on 14 models and batches; the estimate was 0.7 to
1.1 times the peak of the process.
"""

LEAST_KEPT = 16
"""Bytes that stay for each parameter, at least: the weight, its gradient, its mean and a moment, in float32."""
FEW = 1 << 16
"""Bytes of everything small in a checkpoint: text files, the picture of the learning curve, the random state."""


@dataclass(frozen=True)
class Footprint:
    """The memory that a run needs on its device, in bytes."""

    kept: int
    """The bytes that stay from step to step: weights, gradients, running mean and the moments of the optimisers."""
    passing: int
    """The peak on top of that: what one part of a batch keeps for its gradient, or the writing of a checkpoint."""

    @property
    def total(self) -> int:
        """The peak of the whole run."""
        return self.kept + self.passing


def check_memory(recipe: Recipe, task: Task, device: torch.device, ranks: Ranks | None = None) -> None:
    """Refuse a run that cannot fit into the memory of its device. If that is the CPU, all ranks of a host share it.

    Raises:
        UserError: the run does not fit; the message says how much it needs, how much there is, and what to change.
    """
    config = task.config(recipe)
    ranks = ranks or Ranks(device=device)
    sharing = ranks.local_world if device.type == "cpu" else 1
    shards = ranks.world if recipe.train.shard else 1
    shapes = _shapes_that_may_fit(config, device, sharing / shards)
    count = sum(parameter.numel() for parameter in shapes.parameters())
    kept = kept_bytes(shapes, recipe.optim) // shards
    # First by shapes alone: the measurement below builds the model, for which there may be no room.
    check_room(sharing * kept, device, f"training {count:,} parameters", "choose a smaller model")
    train = recipe.train
    remedy = (
        f"choose a smaller train.batch_size (now {train.batch_size}), a larger train.accumulate ({train.accumulate})"
    )
    if not train.checkpoint_activations:
        remedy += " or train.checkpoint_activations = true"
    rows = part_rows(recipe, task, ranks.world)
    # Then by the least that any model keeps, because what is measured below are whole sequences.
    least = least_bytes(config, rows, task.example(1).length)
    check_room(sharing * (kept + least), device, f"a training step of {rows:,} rows at a time", remedy)
    needed = sharing * (kept + footprint(recipe, task, device, ranks.world).passing)
    by = f" by each of {sharing} ranks" if sharing > 1 else ""
    check_room(needed, device, f"a training step of {rows:,} rows at a time{by}", remedy)


def _shapes_that_may_fit(config: AnyConfig, device: torch.device, copies: float) -> AnyModel:
    """Build a model as shapes alone, but no further than a training of so many copies could fit into the memory.

    Raises:
        UserError: it has more parameters than that.
    """
    there = available_bytes(device)
    most = MOST_NUMBERS if there is None else int(there / (LEAST_KEPT * copies)) + 1
    try:
        return build_shapes(config, most)
    except TooLargeError as error:
        needed = int(error.least * LEAST_KEPT * copies)
        check_room(needed, device, f"training more than {error.least:,} parameters", "choose a smaller model")
        raise UserError(f"the model has more than {most:,} parameters: choose a smaller one") from None


def part_rows(recipe: Recipe, task: Task, world: int = 1) -> int:
    """Return how many rows each of `world` ranks computes a gradient of at once."""
    return -(-task.rows // (recipe.train.accumulate * world))


def footprint(recipe: Recipe, task: Task, device: torch.device, world: int = 1) -> Footprint:
    """Estimate the memory of one of `world` ranks. The model is built, so its weights have to fit.

    The global random state is left as it was. Sharding is not considered.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(task.config(recipe)).to(device)
        parameters = sum(parameter.nbytes for parameter in model.parameters())
        one, two = (activations(model, task.example(rows).to(device), recipe) for rows in (1, 2))
    # A second row adds what every further row will add; the first one alone also pays for what no row adds.
    more = part_rows(recipe, task, world) - 1
    step, whole = (a + more * max(0, b - a) for a, b in zip(one, two, strict=True))
    saving = 2 * parameters  # the copy of the model that is evaluated, freshly initialised and then loaded
    if device.type == "cpu":
        step += LIBRARIES + round(HOLES * whole)
        saving += 3 * parameters  # weights and two moments, gathered for the file
    return Footprint(kept_bytes(model, recipe.optim), max(step, saving))


def least_bytes(config: AnyConfig, rows: int, length: int) -> int:
    """Return bytes that a step keeps for its gradient in any case: the input of each block, in 32 bits.

    The step is one of `rows` sequences of `length` tokens; levels below the first of a multi-scale stack are left out,
    and so are predictors, whose readers may make few positions of many samples.
    """
    if not isinstance(config, DensityConfig):
        return 0
    return 4 * (rows * length // config.tokens_per_input) * config.model.d_model * config.model.n_layers


def kept_bytes(model: AnyModel, config: OptimConfig) -> int:
    """Return the bytes of weights, gradients, running mean and moments of a model, which may be on the meta device."""
    return 3 * sum(parameter.nbytes for parameter in model.parameters()) + _moments(model, config)


def checkpoint_bytes(model: AnyModel, config: OptimConfig) -> tuple[int, int]:
    """Return the bytes of a run's checkpoint, and the bytes of an ordinary checkpoint (weights alone) of its model.

    Everything else, such as the state that a run on text carries along, is small beside a model.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return 2 * weights + _moments(model, config) + FEW, weights + FEW


def _moments(model: AnyModel, config: OptimConfig) -> int:
    """Return the bytes of what the optimisers remember: two numbers per parameter for AdamW, one for Muon."""
    moments = 0
    for optimizer in build_optimizers(model, config):
        size = sum(parameter.nbytes for group in optimizer.param_groups for parameter in group["params"])
        moments += size * (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
    return moments


def activations(model: AnyModel, batch: Batch, recipe: Recipe) -> tuple[int, int]:
    """Measure the bytes in use at the peak of a training step on a batch, and the bytes that a plain step would keep.

    The two are equal unless blocks are computed again for the gradient (`train.checkpoint_activations`). In that case
    the peak is the inputs of all blocks and everything inside the largest one.
    """
    model.train()
    model.recompute = False
    whole, blocks = _saved(model, batch, recipe.train.precision)
    if not recipe.train.checkpoint_activations:
        return whole, whole
    model.recompute = True
    return _saved(model, batch, recipe.train.precision)[0] + max(blocks), whole


def _saved(model: AnyModel, batch: Batch, precision: str) -> tuple[int, list[int]]:
    """Return the bytes of the tensors that autograd keeps in a forward pass, in all and inside each block."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    within: list[int] = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()  # views share one, which is counted once
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    def enter(block: nn.Module, inputs: Any) -> None:  # `within` then holds minus the bytes before the block
        within.append(-sum(found.values()))

    def leave(block: nn.Module, inputs: Any, output: Any) -> None:
        within[-1] += sum(found.values())

    hooks = [block.register_forward_pre_hook(enter) for block in model.blocks]
    hooks += [block.register_forward_hook(leave) for block in model.blocks]
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
            torch.autocast(batch.read.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            # What is kept lives as long as the result does, so no two tensors in `found` have the same address.
            losses, _ = batch.losses(model, None)
            del losses
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found.values()), within
