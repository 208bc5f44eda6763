"""How much memory a training run takes, found before it starts: what stays from step to step is counted, and what a
step keeps for its gradient is measured on one and two sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.config import DensityConfig, OptimConfig, Recipe
from s4gen.machine.memory import check_room
from s4gen.models.build import build_model, build_shapes
from s4gen.models.density import DensityModel
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import Batch, Task

LIBRARIES = 150_000_000
"""Bytes that a process has more after its first step on a CPU, whatever the model: what is loaded when it is used."""
HOLES = 0.35
"""Of what all blocks would keep: what the C library's heap loses between tensors, also where blocks are computed again.
Measured with glibc on 14 models and batches; the estimate was 0.7 to 1.1 times the peak of the process."""

FEW = 1 << 16
"""Bytes of the small files of a checkpoint, of the picture of how the run learnt, and of the random state."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device that computes."""

    kept: int
    """From step to step: weights, gradients, their running mean, what the optimisers remember."""
    passing: int
    """The most that comes on top: what a part of a batch keeps for its gradient, or the writing of a checkpoint."""

    @property
    def total(self) -> int:
        """The peak."""
        return self.kept + self.passing


def check_memory(recipe: Recipe, task: Task, device: torch.device, ranks: Ranks | None = None) -> None:
    """Refuse a run that cannot fit into the memory of the device, which all ranks of a host share if it is the CPU.

    Raises:
        UserError: one line that says how much it needs, how much there is, and what to change.
    """
    config = DensityConfig(task.layout, recipe.model, recipe.ssm)
    shapes = build_shapes(config)
    count = sum(parameter.numel() for parameter in shapes.parameters())
    ranks = ranks or Ranks(device=device)
    sharing = ranks.local_world if device.type == "cpu" else 1
    kept = kept_bytes(shapes, recipe.optim) // (ranks.world if recipe.train.shard else 1)
    check_room(sharing * kept, device, f"training {count:,} parameters", "choose a smaller model")
    train = recipe.train
    remedy = (
        f"choose a smaller train.batch_size (now {train.batch_size}), a larger train.accumulate ({train.accumulate})"
    )
    if not train.checkpoint_activations:
        remedy += " or train.checkpoint_activations = true"
    rows = part_rows(recipe, task, ranks.world)
    needed = sharing * (kept + footprint(recipe, task, device, ranks.world).passing)
    by = f" by each of {sharing} ranks" if sharing > 1 else ""
    check_room(needed, device, f"a training step of {rows:,} rows at a time{by}", remedy)


def part_rows(recipe: Recipe, task: Task, world: int = 1) -> int:
    """Rows of a batch whose gradient is computed at once, by each of `world` ranks."""
    return -(-task.rows // (recipe.train.accumulate * world))


def footprint(recipe: Recipe, task: Task, device: torch.device, world: int = 1) -> Footprint:
    """The estimate for one of `world` ranks; the weights have to fit. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(DensityConfig(task.layout, recipe.model, recipe.ssm)).to(device)
        parameters = sum(parameter.nbytes for parameter in model.parameters())
        one, two = (activations(model, task.example(rows).to(device), recipe) for rows in (1, 2))
    more = part_rows(recipe, task, world) - 1
    step, whole = (a + more * max(0, b - a) for a, b in zip(one, two, strict=True))
    saving = 2 * parameters  # the model that is evaluated, and the one it was before it got its weights
    if device.type == "cpu":
        step += LIBRARIES + round(HOLES * whole)
        saving += 3 * parameters  # the file, which is made of weights and two moments
    return Footprint(kept_bytes(model, recipe.optim), max(step, saving))


def kept_bytes(model: DensityModel, config: OptimConfig) -> int:
    """Bytes of weights, gradients, running mean and optimiser state of a model, which may be on the meta device."""
    return 3 * sum(parameter.nbytes for parameter in model.parameters()) + _moments(model, config)


def checkpoint_bytes(model: DensityModel, config: OptimConfig) -> tuple[int, int]:
    """Bytes of a run's checkpoint of a model, and of those the published weights, which are a checkpoint themselves.

    What else is in one, the state of text among it, is small beside a model, or a few kilobytes.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return 2 * weights + _moments(model, config) + FEW, weights + FEW


def _moments(model: DensityModel, config: OptimConfig) -> int:
    """Bytes of what the optimisers remember."""
    moments = 0
    for optimizer in build_optimizers(model, config):
        size = sum(parameter.nbytes for group in optimizer.param_groups for parameter in group["params"])
        moments += size * (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
    return moments


def activations(model: DensityModel, batch: Batch, recipe: Recipe) -> tuple[int, int]:
    """Bytes in use at the peak of forward and backward pass on a batch, and the bytes that all blocks keep together.

    The two are equal but where blocks are computed again: then the inputs of all are kept, and the rest of one.
    """
    model.train()
    model.recompute = False
    whole, blocks = _saved(model, batch, recipe.train.precision)
    if not recipe.train.checkpoint_activations:
        return whole, whole
    model.recompute = True
    return _saved(model, batch, recipe.train.precision)[0] + max(blocks), whole


def _saved(model: DensityModel, batch: Batch, precision: str) -> tuple[int, list[int]]:
    """Bytes of the tensors that autograd keeps in a forward pass, in all and inside of each block."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    within: list[int] = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    def enter(block: nn.Module, inputs: Any) -> None:
        within.append(-sum(found.values()))

    def leave(block: nn.Module, inputs: Any, output: Any) -> None:
        within[-1] += sum(found.values())

    hooks = [block.register_forward_pre_hook(enter) for block in model.blocks]
    hooks += [block.register_forward_hook(leave) for block in model.blocks]
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
            torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            # What is kept lives as long as the result does, so no two tensors in `found` have the same address.
            loss = model.nats(batch.tokens) if batch.target is None else model.score(batch.tokens, batch.target)[0]
            del loss
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found.values()), within
