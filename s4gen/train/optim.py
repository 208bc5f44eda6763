"""Optimiser: parameter groups, learning rate schedule, running mean of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from s4gen.config import OptimConfig
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters by treatment: `ssm` (own learning rate, no decay), `decay` (matrices), `plain` (rest).

    Every parameter is in exactly one group. Raises ValueError if a layer names an SSM parameter it does not have.
    """
    parameters = dict(model.named_parameters())
    ssm = {f"{name}.{key}" for name, layer in model.named_modules() for key in getattr(layer, "ssm_parameters", ())}
    if unknown := ssm - parameters.keys():
        raise ValueError(f"ssm_parameters names no parameter: {sorted(unknown)}")
    matrices = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | AdaptiveEmbedding | AdaptiveSoftmax)
        for key, parameter in module.named_parameters()
        if parameter.dim() == 2
    } - ssm
    return {
        "ssm": [name for name in parameters if name in ssm],
        "decay": [name for name in parameters if name in matrices],
        "plain": [name for name in parameters if name not in ssm | matrices],
    }


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with the groups of `parameter_groups`; `peak_lr` of a group is what the schedule scales."""
    parameters = dict(model.named_parameters())
    lr = {"ssm": config.ssm_lr, "decay": config.lr, "plain": config.lr}
    return torch.optim.AdamW(
        [
            {
                "params": [parameters[name] for name in names],
                "lr": lr[group],
                "peak_lr": lr[group],
                "weight_decay": config.weight_decay if group == "decay" else 0.0,
            }
            for group, names in parameter_groups(model).items()
            if names
        ],
        fused=True,
    )


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Factor of the learning rate at step 0 .. steps-1: linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


@torch.no_grad()
def update_mean(mean: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """mean <- d mean + (1 - d) weights, with d rising to `decay` so that the first steps are soon forgotten."""
    d = min(decay, (1 + step) / (10 + step))
    for name, parameter in model.named_parameters():
        mean[name].lerp_(parameter, 1 - d)
