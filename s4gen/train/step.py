"""Take one step of the optimisers."""

from __future__ import annotations

import math

import torch

from s4gen.errors import UserError
from s4gen.train.batches import Batch
from s4gen.train.optim import schedule, set_learning_rate, update_mean
from s4gen.train.training_run import TrainingRun


def training_step(training: TrainingRun, batch: Batch) -> tuple[float, float]:
    """Take one optimiser step on a batch; return the mean loss and the gradient's norm before clipping.

    If the batch has a target, the model's state continues from the step before, without gradients through it.

    Raises:
        UserError: loss or gradient is not finite; the weights are still those of the step before.
    """
    config, spread = training.recipe, training.spread
    set_learning_rate(training.optimizers, schedule(training.step, config.train.steps, config.optim.warmup_steps))
    training.model.zero_grad(set_to_none=True)
    spread.begin(config.train.seed, training.step)
    total, carried, parts = 0.0, [], spread.parts(batch, config.train.accumulate)
    for i, part in enumerate(parts):
        with spread.exchanging(last=part is parts[-1]):
            with torch.autocast(batch.read.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
                loss, state = spread.loss(part, training.carried[i] if training.carried else None, batch)
            spread.backward(loss)
        carried += [] if state is None else [state]
        total += loss.item()
    norm = spread.clip(config.optim.grad_clip)
    total = spread.agree(total)
    # Both numbers are the same on all ranks, so all of them raise the error, or none does.
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise UserError(
            f"the loss is no longer finite at step {training.step + 1}; the last checkpoint is kept: "
            f"start again with a lower optim.lr (now {config.optim.lr}) or optim.ssm_lr (now {config.optim.ssm_lr})"
        )
    for optimizer in training.optimizers:
        optimizer.step()
    update_mean(training.mean, spread.parameters(), config.optim.ema_decay, training.step)
    training.carried = carried
    training.step += 1
    return total, norm
