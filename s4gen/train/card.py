"""The card a run writes into its checkpoint: what it is, how it was made, what was measured."""

from __future__ import annotations

import platform
from typing import Any

import torch

from s4gen.config import recipe_to_toml
from s4gen.train.session import Session


def card(session: Session, metrics: dict[str, Any]) -> str:
    """Markdown text; the numbers are those of `metrics`."""
    recipe, model = session.recipe, session.model
    count = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    lines = [
        f"# {recipe.data.dataset}: {recipe.model.mixer} density model",
        "",
        f"{recipe.model.n_layers} layers, d_model {recipe.model.d_model}, {count:,} parameters.",
        f"Trained on {recipe.data.dataset} for {session.step:,} of {recipe.train.steps:,} steps of "
        f"{recipe.train.batch_size} images in {session.seconds / 60:.1f} minutes on {machine}, "
        f"{torch.get_num_threads()} threads, precision {recipe.train.precision}, torch {torch.__version__}.",
    ]
    if "validation" in metrics:
        v = metrics["validation"]
        lines.append(
            f"\nHeld-out images: {v['bits_per_dim']:.4f} ± {v['stderr']:.4f} bits/dim over {v['n_sequences']}."
        )
    return "\n".join([*lines, "", "## Recipe", "", "```toml", recipe_to_toml(recipe).rstrip(), "```", ""])
