"""Training on images. They are read whole, in a new order in each epoch; the loss is in bits per dimension."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4gen.config import ImageLayout, Recipe
from s4gen.data.images import labels_for, layout_of, save_grid, to_sequence
from s4gen.data.opening import training_splits
from s4gen.evaluate.images import evaluate_images, image_nats
from s4gen.evaluate.scorers import Scorer, by_convolution
from s4gen.models.density import DensityModel
from s4gen.showing.words import plural
from s4gen.train.batches import TokenBatch
from s4gen.train.ranks import Ranks, known_scores, scored_together
from s4gen.train.tasks import DensityTask, Measured, Values


class ImageTask(DensityTask):
    """A task that reads whole images and reports bits per dimension."""

    measures = ("bits_per_dim", "stderr")
    curve = "bits_per_dim"
    counted = "n_sequences"
    unit = "images"

    def __init__(self, recipe: Recipe, device: torch.device, progress: bool = True) -> None:
        """Open the data. All training images are kept on `device` as bytes, 154 MB for those of CIFAR-10."""
        training, held_out = training_splits(recipe.data, progress)
        for line in training.notes if progress else []:
            print(f"s4gen: {training.name}: {line}", file=sys.stderr)
        self.layout = self._layout = layout_of(training, recipe.data.labels)
        self._labels = _tensor(labels_for(training, self._layout), device)
        self._held_labels = _tensor(labels_for(held_out, self._layout), device, recipe.train.eval_limit)
        self._config, self._flips = recipe.train, recipe.data.flips
        self._sequences = torch.from_numpy(training.images.reshape(len(training), -1).copy()).to(device)
        self.rows = min(self._config.batch_size, len(self._sequences))
        self._held = to_sequence(held_out.images[: recipe.train.eval_limit])

    def batch(self, step: int) -> TokenBatch:
        n, device = len(self._sequences), self._sequences.device
        index = batch_indices(n, self._config.batch_size, self._config.seed, step, device)
        sequences = self._sequences[index]
        if self._flips:
            sequences = mirrored(sequences, self._layout, self._config.seed, step)
        return TokenBatch(sequences.long(), label=None if self._labels is None else self._labels[index])

    def example(self, rows: int) -> TokenBatch:
        return TokenBatch(self._sequences[:1].expand(rows, -1).long())

    def epoch(self, step: int) -> float:
        return step / max(1, len(self._sequences) // self.rows)

    def measure(self, nats: float) -> Values:
        return {"bits_per_dim": nats / math.log(2)}

    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        if not len(self._held):
            return None
        rows, labels, held = self._config.batch_size, self._held_labels, self._held.to(model.device)
        score = by_convolution(model)
        if not ranks.alone:
            score = self._scored_by_all(model, held, ranks)
        found = evaluate_images(score, held, model.bos, rows, "conv", labels=labels)
        return Measured({"bits_per_dim": found.bits_per_dim, "stderr": found.stderr}, found.n_sequences)

    def _scored_by_all(self, model: DensityModel, held: Tensor, ranks: Ranks) -> Scorer:
        """Let each rank score its share of the batches; return a scorer that replays the scores of all ranks."""
        score, rows = by_convolution(model), self._config.batch_size

        def whole_images(x: Tensor, label: Tensor | None = None) -> Tensor:
            return torch.from_numpy(image_nats(score, x, model.bos, label))

        columns = (held, *(() if self._held_labels is None else (self._held_labels,)))
        with torch.inference_mode():
            batches = zip(*(column.split(rows) for column in columns), strict=True)
            return known_scores(scored_together(ranks, whole_images, batches))

    def say(self, values: Values) -> str:
        return f"{values['bits_per_dim']:.3f} bits/dim"

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        lines = [f"Each step read {plural(recipe.train.batch_size, 'image')}."]
        if self._layout.classes:
            lines.append(f"Conditional on the label: {', '.join(self._layout.classes)}.")
        if latest is not None:
            bits, stderr = latest.values["bits_per_dim"], latest.values["stderr"]
            lines += ["", f"Held-out images: {bits:.4f} ± {stderr:.4f} bits/dim over {latest.n}."]
        return lines

    def save_sample(self, sequences: Tensor, path: Path) -> None:
        save_grid(sequences, self._layout, path.with_suffix(".png"))


def _tensor(labels: NDArray[np.int64] | None, device: torch.device, limit: int | None = None) -> Tensor | None:
    return None if labels is None else torch.from_numpy(labels[:limit].copy()).to(device)


def batch_indices(n: int, batch_size: int, seed: int, step: int, device: torch.device) -> Tensor:
    """Return which of n sequences a step reads, int64 (batch_size,), or (n,) if n is less.

    Every epoch is a new permutation, cut into whole batches; what is left over is not read in that epoch. The order is
    a function of seed and step, so a resumed run needs to remember nothing. It is drawn on the device by a generator of
    its own, so another kind of device reads the images in another order.
    """
    batch_size = min(batch_size, n)
    epoch, batch = divmod(step, n // batch_size)
    order = _permutation(n, seed * 1_000_003 + epoch, device)  # no two seeds share an epoch's order
    return order[batch * batch_size : (batch + 1) * batch_size]


@functools.lru_cache(maxsize=1)
def _permutation(n: int, seed: int, device: torch.device) -> Tensor:
    """Return a permutation of n; the cache keeps it for all steps of an epoch."""
    return torch.randperm(n, generator=torch.Generator(device).manual_seed(seed), device=device)


def mirrored(sequences: Tensor, layout: ImageLayout, seed: int, step: int) -> Tensor:
    """Mirror about half of the images left to right, chosen by seed and step; sequences int64 or uint8 (B, L)."""
    generator = torch.Generator(sequences.device).manual_seed(seed * 1_000_003 + step)
    chosen = torch.rand(len(sequences), generator=generator, device=sequences.device) < 0.5
    images = sequences.unflatten(1, (layout.height, layout.width, layout.channels))
    return torch.where(chosen[:, None], images.flip(2).flatten(1), sequences)
