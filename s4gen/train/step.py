"""One optimiser step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.models.states import detached
from s4gen.train.optim import schedule, set_learning_rate, update_mean
from s4gen.train.tasks import Batch
from s4gen.train.training_run import TrainingRun


def training_step(training: TrainingRun, batch: Batch) -> tuple[float, float]:
    """One optimiser step on what `Task.batch` gives; returns the loss in nats per token and the norm of the gradient.

    With a target, the state goes on from where the step before left it, without its gradients.
    Raises UserError if the loss is not finite; the weights are then those of the step before.
    """
    config, model = training.recipe, training.model
    set_learning_rate(training.optimizers, schedule(training.step, config.train.steps, config.optim.warmup_steps))
    model.zero_grad(set_to_none=True)
    nats, carried = 0.0, []
    for i, part in enumerate(batch.parts(config.train.accumulate)):
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            if part.target is None:
                found = model.nats(part.tokens, part.label)
            else:
                found, state = model.score(part.tokens, part.target, training.carried[i] if training.carried else None)
                carried.append(detached(state))
            loss = _mean(found, part, batch)
        loss.backward()
        nats += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip).item()
    if not (math.isfinite(nats) and math.isfinite(norm)):
        raise UserError(
            f"the loss is no longer finite at step {training.step + 1}; the last checkpoint is kept: "
            f"start again with a lower optim.lr (now {config.optim.lr}) or optim.ssm_lr (now {config.optim.ssm_lr})"
        )
    for optimizer in training.optimizers:
        optimizer.step()
    update_mean(training.mean, model, config.optim.ema_decay, training.step)
    training.carried = carried
    training.step += 1
    return nats, norm


def _mean(nats: Tensor, part: Batch, batch: Batch) -> Tensor:
    """The share that a part has in the mean over the batch's tokens that count."""
    if part.counted is None or batch.counted is None:
        return nats.mean() * (len(part.tokens) / len(batch.tokens))
    return torch.where(part.counted, nats, 0).sum() / batch.counted.sum()
