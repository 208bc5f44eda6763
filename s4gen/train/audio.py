"""Training on sound: clips of like lengths side by side, padded, measured in bits per sample."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.audio_evaluation import Score, by_convolution, evaluate_clips
from s4gen.config import Recipe
from s4gen.data.audio.batches import Batch as Clips
from s4gen.data.audio.batches import TrainingBatches, evaluation_batches
from s4gen.data.audio.clips import AudioSet
from s4gen.data.audio.opening import crop_of, form_of, layout_of, training_sets
from s4gen.data.audio.write import sample_paths, write_audio
from s4gen.errors import UserError
from s4gen.models.density import DensityModel
from s4gen.train.ranks import Ranks, scored_together
from s4gen.train.tasks import Batch, Measured, Task, Values


class AudioTask(Task):
    """Clips, and bits per sample."""

    measures = ("bits_per_sample", "stderr")
    counted = "n_sequences"
    unit = "clips"

    def __init__(self, recipe: Recipe, shown: bool = True) -> None:
        data, train = recipe.data, recipe.train
        training, held = training_sets(data, shown)
        for line in training.report.lines() if shown else []:
            print(f"s4gen: {training.name}: {line}", file=sys.stderr)
        self.layout = self._layout = layout_of(training, data.labels)
        crop = crop_of(data)
        self._tail = round(data.tail * training.form.rate)
        if self._tail and crop is not None and (training.lengths > crop).any():
            raise UserError(f"data.tail = {data.tail} goes with whole clips, not with crops of {crop} samples")
        self._batches = TrainingBatches(training, crop, train.batch_size, train.seed)
        self._held = None if held is None else held.subset(np.arange(min(len(held), train.eval_limit)))
        self.rows = self._batches.batch_size
        longest = int(training.lengths.max())
        self._longest = self._tail + (longest if crop is None else min(crop, longest))

    def batch(self, step: int) -> Batch:
        found = self._batches.at(step)
        codes = F.pad(found.codes, (0, self._tail), value=form_of(self._layout).quantiser.silence)
        mask = dataclasses.replace(found, codes=codes, lengths=found.lengths + self._tail).mask()
        return Batch(codes, counted=mask, label=found.labels if self._layout.classes else None)

    def example(self, rows: int) -> Batch:
        return Batch(torch.zeros(rows, self._longest, dtype=torch.int64))

    def epoch(self, step: int) -> float:
        return step / self._batches.per_epoch

    def measure(self, nats: float) -> Values:
        return {"bits_per_sample": nats / math.log(2)}

    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        if self._held is None:
            return None
        score = by_convolution(model) if ranks.alone else self._scored_by_all(model, self._held, ranks)
        batches = evaluation_batches(self._held, None, self.rows)
        found = evaluate_clips(score, batches, len(self._held), "conv")
        return Measured({"bits_per_sample": found.bits_per_sample, "stderr": found.stderr}, found.n_sequences)

    def _scored_by_all(self, model: DensityModel, held: AudioSet, ranks: Ranks) -> Score:
        """Let each rank score its batches; return what gives the known -log p of each clip, at its first sample."""
        score = by_convolution(model)

        def whole_clips(codes: Tensor, batch: Clips) -> Tensor:
            return torch.where(batch.mask(), score(codes, batch.labels).double().cpu(), 0).sum(-1)

        with torch.inference_mode():
            batches = ((batch.codes, batch) for batch in evaluation_batches(held, None, self.rows))
            known = iter(scored_together(ranks, whole_clips, batches))
        return lambda x, label: F.pad(next(known)[:, None], (0, x.shape[1] - 1))

    def say(self, values: Values) -> str:
        return f"{values['bits_per_sample']:.3f} bits/sample"

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        layout = self._layout
        lines = [
            f"Sound at {layout.rate:,} samples per second, {layout.law} codes of {layout.bits} bits, normalisation "
            f"{layout.normalise}. Each step read {recipe.train.batch_size} clips, the whole run the training split "
            f"{self.epoch(recipe.train.steps):.1f} times."
        ]
        if layout.classes:
            lines.append(f"Conditional on the label: {', '.join(layout.classes)}.")
        if self._tail:
            lines.append(f"{recipe.data.tail:g} s of silence behind every clip were learnt, and count nowhere else.")
        if latest is not None:
            bits, stderr = latest.values["bits_per_sample"], latest.values["stderr"]
            lines += ["", f"Held-out clips: {bits:.4f} ± {stderr:.4f} bits/sample over {latest.n}."]
        return lines

    def save_sample(self, sequences: Tensor, path: Path) -> None:
        form = form_of(self._layout)
        for clip, file in zip(sequences, sample_paths(path, len(sequences)), strict=True):
            write_audio(file, form.quantiser.decode(clip.to(torch.int64).numpy()), form.rate)
