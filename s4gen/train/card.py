"""The card a run writes into its checkpoint: what it is, how it was made, what was measured."""

from __future__ import annotations

import platform

import torch

from s4gen.config import recipe_to_toml
from s4gen.train.session import Session
from s4gen.train.tasks import Measured, Task


def card(session: Session, task: Task, latest: Measured | None) -> str:
    """Markdown text."""
    recipe, model = session.recipe, session.model
    count = sum(parameter.numel() for parameter in model.parameters())
    device = model.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    levels = f" per level, strides {list(recipe.model.pool)}" if recipe.model.pool else ""
    layers = f"{recipe.model.n_layers} layers" + (f" of {recipe.model.mixers}" if recipe.model.mixers > 1 else "")
    lines = [
        f"# {recipe.data.dataset}: {recipe.model.mixer} density model",
        "",
        f"{layers}{levels}, d_model {recipe.model.d_model}, {count:,} parameters.",
        f"Trained on {recipe.data.dataset} for {session.step:,} of {recipe.train.steps:,} steps "
        f"in {session.seconds / 60:.1f} minutes on {machine}, "
        f"{torch.get_num_threads()} threads, precision {recipe.train.precision}, torch {torch.__version__}.",
        *task.card(recipe, latest),
    ]
    return "\n".join([*lines, "", "## Recipe", "", "```toml", recipe_to_toml(recipe).rstrip(), "```", ""])
