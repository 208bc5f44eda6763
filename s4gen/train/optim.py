"""The optimisers and their groups of parameters, the schedule of the learning rate, the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.config import OptimConfig
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.train.muon import Muon


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Sort the names of a model's parameters into four groups that are trained differently.

    - ssm: parameters of state space layers; they have a learning rate of their own and no weight decay.
    - hidden: weights of the linear layers inside blocks, which Muon trains if it is used.
    - decay: all other matrices; they have weight decay, too.
    - plain: the rest.

    Every parameter is in exactly one group.

    Raises:
        ValueError: the `ssm_parameters` of a layer name one that it does not have.
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
    hidden = {name for name in matrices if name.startswith("blocks.")}
    return {
        "ssm": [name for name in parameters if name in ssm],
        "hidden": [name for name in parameters if name in hidden],
        "decay": [name for name in parameters if name in matrices - hidden],
        "plain": [name for name in parameters if name not in ssm | matrices],
    }


def build_optimizers(
    model: nn.Module,
    config: OptimConfig,
    precision: str = "fp32",
    parameters: Mapping[str, Tensor] | None = None,
    muon: Callable[..., Muon] = Muon,
) -> list[torch.optim.Optimizer]:
    """Return AdamW and, before it, Muon for the `hidden` matrices if `muon_lr` is set.

    Args:
        model: its parameters are sorted by `parameter_groups`.
        config: learning rates and weight decay. Each group keeps its rate as `peak_lr`, which the schedule scales.
        precision: that of the run; with bf16, Muon iterates in bfloat16.
        parameters: what to train instead of the model's parameters, under the same names, such as a rank's parts.
        muon: the class to use for Muon.
    """
    groups = parameter_groups(model)
    parameters = dict(model.named_parameters()) if parameters is None else parameters

    def group(name: str, lr: float) -> dict[str, Any]:
        decay = config.weight_decay if name in ("hidden", "decay") else 0.0
        members = [parameters[member] for member in groups[name]]
        return {"params": members, "lr": lr, "peak_lr": lr, "weight_decay": decay}

    rates = {"ssm": config.ssm_lr, "hidden": config.lr, "decay": config.lr, "plain": config.lr}
    optimizers: list[torch.optim.Optimizer] = []
    if config.muon_lr and groups["hidden"]:
        rates.pop("hidden")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        hidden = [group("hidden", config.muon_lr)]
        optimizers.append(muon(hidden, config.muon_lr, config.weight_decay, dtype=dtype))
    adamw = torch.optim.AdamW([group(name, lr) for name, lr in rates.items() if groups[name]], fused=True)
    return [*optimizers, adamw]


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Return the factor of the learning rate, 0 to 1, at step 0 .. steps-1: linear warm-up, then half a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


@torch.no_grad()
def update_mean(mean: dict[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Update the running mean of the weights in place: mean <- d mean + (1 - d) weights, at step 0, 1, ...

    d rises to `decay`, so that a short run does not average over its first, bad weights.
    """
    d = min(decay, (1 + step) / (10 + step))
    for name, parameter in weights.items():
        mean[name].lerp_(parameter, 1 - d)
