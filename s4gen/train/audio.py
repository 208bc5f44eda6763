"""Training on sound. Clips of similar length are batched together and padded; the loss is in bits per sample."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.config import Recipe
from s4gen.data.audio.batches import ClipBatch, TrainingBatches, evaluation_batches
from s4gen.data.audio.clips import AudioSet
from s4gen.data.audio.format import format_of
from s4gen.data.audio.opening import layout_of, recipe_crop, training_splits
from s4gen.data.audio.write import sample_paths, write_audio
from s4gen.errors import UserError
from s4gen.evaluate.audio import batch_nats, evaluate_clips, piece_of
from s4gen.evaluate.scorers import Scorer, by_convolution
from s4gen.models.density import DensityModel
from s4gen.showing.words import plural
from s4gen.train.batches import TokenBatch
from s4gen.train.ranks import Ranks, known_scores, scored_together
from s4gen.train.tasks import DensityTask, Measured, Values


class AudioTask(DensityTask):
    """A task that reads clips and reports bits per sample."""

    measures = ("bits_per_sample", "stderr")
    curve = "bits_per_sample"
    counted = "n_sequences"
    unit = "clips"

    def __init__(self, recipe: Recipe, progress: bool = True) -> None:
        data, train = recipe.data, recipe.train
        training, held = training_splits(data, progress)
        for line in training.findings.lines() if progress else []:
            print(f"s4gen: {training.name}: {line}", file=sys.stderr)
        self.layout = self._layout = layout_of(training, data.labels)
        crop = recipe_crop(data)
        self._tail = round(data.tail * training.format.rate)
        if self._tail and crop is not None and (training.lengths > crop).any():
            raise UserError(f"data.tail = {data.tail} goes with whole clips, not with crops of {crop} samples")
        self._batches = TrainingBatches(training, crop, train.batch_size, train.seed)
        self._held = None if held is None else held.subset(np.arange(min(len(held), train.eval_limit)))
        self.rows = self._batches.batch_size
        longest = int(training.lengths.max())
        self._longest = self._tail + (longest if crop is None else min(crop, longest))

    def batch(self, step: int) -> TokenBatch:
        found = self._batches.at(step)
        # The silence is added here and not to the data, so that evaluation never sees it.
        codes = F.pad(found.codes, (0, self._tail), value=format_of(self._layout).quantiser.silence)
        mask = dataclasses.replace(found, codes=codes, lengths=found.lengths + self._tail).mask()
        return TokenBatch(codes, mask=mask, label=found.labels if self._layout.classes else None)

    def example(self, rows: int) -> TokenBatch:
        return TokenBatch(torch.zeros(rows, self._longest, dtype=torch.int64))

    def epoch(self, step: int) -> float:
        return step / self._batches.per_epoch

    def measure(self, nats: float) -> Values:
        return {"bits_per_sample": nats / math.log(2)}

    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        if self._held is None:
            return None
        score = by_convolution(model) if ranks.alone else self._scored_by_all(model, self._held, ranks)
        batches = evaluation_batches(self._held, None, self.rows)
        found = evaluate_clips(score, batches, model.bos, len(self._held), "conv")
        return Measured({"bits_per_sample": found.bits_per_sample, "stderr": found.stderr}, found.n_sequences)

    def _scored_by_all(self, model: DensityModel, held: AudioSet, ranks: Ranks) -> Scorer:
        """Let each rank score its share of the batches; return a scorer that replays the scores of all ranks."""
        score = by_convolution(model)

        def whole_clips(codes: Tensor, batch: ClipBatch) -> Tensor:
            return torch.from_numpy(batch_nats(score, batch, model.bos, piece_of(*codes.shape)))

        with torch.inference_mode():
            batches = ((batch.codes, batch) for batch in evaluation_batches(held, None, self.rows))
            return known_scores(scored_together(ranks, whole_clips, batches))

    def say(self, values: Values) -> str:
        return f"{values['bits_per_sample']:.3f} bits/sample"

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        layout = self._layout
        lines = [
            f"Sound at {layout.rate:,} samples per second, {layout.law} codes of {layout.bits} bits, normalisation "
            f"{layout.normalise}. Each step read {plural(recipe.train.batch_size, 'clip')}, the whole run the training "
            f"split {self.epoch(recipe.train.steps):.1f} times."
        ]
        if layout.classes:
            lines.append(f"Conditional on the label: {', '.join(layout.classes)}.")
        if self._tail:
            lines.append(
                f"Every training clip ended in {recipe.data.tail:g} s of added silence, which no evaluation has; so "
                "the training loss is lower than that of held-out clips."
            )
        if latest is not None:
            bits, stderr = latest.values["bits_per_sample"], latest.values["stderr"]
            lines += ["", f"Held-out clips: {bits:.4f} ± {stderr:.4f} bits/sample over {latest.n}."]
        return lines

    def save_sample(self, sequences: Tensor, path: Path) -> None:
        format = format_of(self._layout)
        for clip, file in zip(sequences, sample_paths(path, len(sequences)), strict=True):
            write_audio(file, format.quantiser.decode(clip.to(torch.int64).numpy()), format.rate)
