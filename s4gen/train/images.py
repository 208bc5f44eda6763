"""Training on images: whole ones, in a fresh order for each epoch, measured in bits per dimension."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from s4gen.config import ImageLayout, Recipe
from s4gen.data import load_images
from s4gen.data.images import save_grid, split_validation, to_sequence
from s4gen.evaluation import evaluate
from s4gen.models.density import DensityModel
from s4gen.train.tasks import Batch, Measured, Task, Values


class ImageTask(Task):
    """Whole images, and bits per dimension."""

    measures = ("bits_per_dim", "stderr")
    counted = "n_sequences"

    def __init__(self, recipe: Recipe) -> None:
        data = load_images(recipe.data.dataset, "train")
        self.layout = self._layout = data.layout
        training, held_out = split_validation(data, recipe.data.validation)
        self._config, self._flips = recipe.train, recipe.data.flips
        self._sequences = torch.from_numpy(training.images.reshape(len(training), -1).copy())  # uint8
        self._held = to_sequence(held_out.images[: recipe.train.eval_limit])

    def batch(self, step: int) -> Batch:
        index = batch_indices(len(self._sequences), self._config.batch_size, self._config.seed, step)
        sequences = self._sequences[index]
        if self._flips:
            sequences = mirrored(sequences, self._layout, self._config.seed, step)
        return Batch(sequences.long())

    def epoch(self, step: int) -> float:
        n = len(self._sequences)
        return step / max(1, n // min(self._config.batch_size, n))

    def measure(self, nats: float) -> Values:
        return {"bits_per_dim": nats / math.log(2)}

    def evaluate(self, model: DensityModel) -> Measured | None:
        if not len(self._held):
            return None
        found = evaluate(model.log_prob, self._held.to(model.device), self._config.batch_size, "conv")
        return Measured({"bits_per_dim": found.bits_per_dim, "stderr": found.stderr}, found.n_sequences)

    def say(self, values: Values) -> str:
        return f"{values['bits_per_dim']:.3f} bits/dim"

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        lines = [f"Each step read {recipe.train.batch_size} images."]
        if latest is not None:
            bits, stderr = latest.values["bits_per_dim"], latest.values["stderr"]
            lines += ["", f"Held-out images: {bits:.4f} ± {stderr:.4f} bits/dim over {latest.n}."]
        return lines

    def save_sample(self, sequences: Tensor, path: Path) -> None:
        save_grid(sequences, self._layout, path.with_suffix(".png"))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which of n sequences step `step` reads: every epoch is a fresh permutation, cut into whole batches."""
    batch_size = min(batch_size, n)
    epoch, batch = divmod(step, n // batch_size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[batch * batch_size : (batch + 1) * batch_size]


def mirrored(sequences: Tensor, layout: ImageLayout, seed: int, step: int) -> Tensor:
    """Sequences (B, L) of which about half, chosen by seed and step, have left and right exchanged."""
    chosen = torch.rand(len(sequences), generator=torch.Generator().manual_seed(seed * 1_000_003 + step)) < 0.5
    images = sequences.unflatten(1, (layout.height, layout.width, layout.channels))
    return torch.where(chosen[:, None], images.flip(2).flatten(1), sequences)
