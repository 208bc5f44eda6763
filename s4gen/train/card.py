"""The card (README.md) in the checkpoint of a run: what the model is, how it was trained, what was measured."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from s4gen.checkpoint import CURVE_FILE
from s4gen.config import recipe_to_toml
from s4gen.showing import plots
from s4gen.showing.words import plural
from s4gen.train.metrics import read_metrics
from s4gen.train.tasks import Measured, Task
from s4gen.train.training_run import TrainingRun


def learning_curve(out: Path, measure: str) -> bytes | None:
    """Plot the learning curve of the run in the folder `out` and return it as a PNG; None if nothing has been logged.

    It shows `measure` against minutes of training, on training batches (smoothed) and on held-out data.
    """
    curves: dict[str, list[plots.Point]] = {"training": [], "held out": []}
    for row in read_metrics(out):
        if measure in row:  # the log may be that of another task, which measured something else
            curves["training" if row["split"] == "train" else "held out"].append((row["seconds"] / 60, row[measure]))
    if not curves["training"]:
        return None
    shown = {name: points for name, points in curves.items() if points}
    return plots.learning_curves(shown, "minutes of training", measure.replace("_per_", "/").replace("_", " "))


def card(training: TrainingRun, task: Task, latest: Measured | None, with_curve: bool = False) -> str:
    """Return the card as Markdown.

    Args:
        training: the run as it is now.
        task: adds what it knows of data and measures.
        latest: the last evaluation; None before the first.
        with_curve: show the picture of the learning curve, which is a file beside the card.
    """
    recipe, model = training.recipe, training.model
    count = sum(parameter.numel() for parameter in model.parameters())
    device = model.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    levels = f" per level, strides {list(recipe.model.pool)}" if recipe.model.pool else ""
    layers = plural(recipe.model.n_layers, "layer") + (
        f" of {recipe.model.mixers_per_block}" if recipe.model.mixers_per_block > 1 else ""
    )
    world = training.spread.ranks.world
    by = f" in each of {world} processes" if world > 1 else ""
    lines = [
        f"# {recipe.data.dataset}: {recipe.model.mixer} {task.noun}",
        "",
        f"{layers}{levels}, d_model {recipe.model.d_model}, {count:,} parameters.",
        f"Trained on {recipe.data.dataset} for {training.step:,} of {recipe.train.steps:,} steps "
        f"in {training.seconds / 60:.1f} minutes on {machine}, {plural(torch.get_num_threads(), 'thread')}{by}, "
        f"precision {recipe.train.precision}, torch {torch.__version__}.",
        *task.card(recipe, latest),
    ]
    if with_curve:
        lines += ["", f"![Loss against minutes of training]({CURVE_FILE})"]
    return "\n".join([*lines, "", "## Recipe", "", "```toml", recipe_to_toml(recipe).rstrip(), "```", ""])
