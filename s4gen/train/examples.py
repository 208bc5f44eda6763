"""Training a predictor on examples: rows of any lengths and the class, or the numbers, of each."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config import Answers, AudioLayout, PredictorConfig, Recipe
from s4gen.data.audio.batches import bucketed
from s4gen.data.audio.playing import played
from s4gen.data.examples import ExampleSplits, Row, inputs_of
from s4gen.data.labelled.opening import open_examples
from s4gen.errors import UserError
from s4gen.evaluate.predictions import MEASURES, Tally, example_batches, tally, targets_of
from s4gen.models.predictor import Predictor
from s4gen.train.batches import ExampleBatch
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import Measured, Task, Values

NOUNS = {"classify": "classifier", "regress": "regression model", "forecast": "forecaster"}
"""The noun for a model of each task in its card."""


class PredictorTask(Task):
    """The part of all tasks that train a predictor."""

    counted = "n"

    def __init__(self, config: PredictorConfig) -> None:
        self._config = config
        self.noun, self.measures = NOUNS[config.task.kind], MEASURES[config.task.kind]
        self.curve = "cross_entropy" if config.task.kind == "classify" else "mse"

    def config(self, recipe: Recipe) -> PredictorConfig:
        return self._config

    def measure(self, loss: float) -> Values:
        return {self.curve: loss}

    def say(self, values: Values) -> str:
        names = ("accuracy", "cross_entropy") if self._config.task.kind == "classify" else self.measures
        words = {"cross_entropy": "cross-entropy"}
        return ", ".join(f"{words.get(name, name)} {values[name]:.4f}" for name in names if name in values)

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        task, lines = self._config.task, [self._said_of_data(recipe)]
        direction = "both directions" if task.bidirectional else "one direction, so the model can be stepped"
        lines.append(f"It reads {self._config.reader} in {direction}, and answers from the {_POOLED[task.pooling]}.")
        if latest is not None:
            lines += ["", f"Held-out data: {self.say(latest.values)} over {latest.n:,}."]
        return lines

    def _said_of_data(self, recipe: Recipe) -> str:
        """Return the sentences of the card about the data."""
        raise NotImplementedError

    def _measured(self, found: Tally) -> Measured:
        return Measured(found.values(self._config), found.n)


_POOLED = {"mean": "mean over all positions", "last": "last position"}


class ExampleTask(PredictorTask):
    """A task that reads rows, and learns what belongs to each."""

    unit = "examples"

    def __init__(self, recipe: Recipe, progress: bool = True) -> None:
        splits = open_examples(recipe.data, recipe.task, progress)
        for line in splits.notes if progress else ():
            print(f"s4gen: {recipe.data.dataset}: {line}", file=sys.stderr)
        super().__init__(config_of(splits, recipe))
        self.tokenizer = splits.tokenizer
        self._training, train = splits.train, recipe.train
        if not len(self._training):
            raise UserError(f"{recipe.data.dataset} has no examples to train on")
        self._held = splits.validation.spread(train.eval_limit)
        self._lengths = np.array([len(row) for row in self._training.inputs])
        self.rows = min(train.batch_size, len(self._training))
        self._seed, self._asked = train.seed, train.batch_size
        self._speed, self._gain = recipe.data.speed, recipe.data.gain
        self._epoch = functools.lru_cache(maxsize=1)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        return bucketed(self._lengths, self.rows, np.random.default_rng([self._seed, epoch]))

    def batch(self, step: int) -> ExampleBatch:
        epoch, number = divmod(step, len(self._training) // self.rows)
        chosen = self._epoch(epoch)[number]
        return self._gathered(chosen, self._changed([self._training.inputs[index] for index in chosen.tolist()], step))

    def example(self, rows: int) -> ExampleBatch:
        chosen = int(self._lengths.argmax())
        # Played slowly, a clip is longer than any that is read; what it holds does not matter here.
        row, length = self._training.inputs[chosen], math.ceil(self._lengths[chosen] / (1 - self._speed))
        longest = np.resize(row, (length, *row.shape[1:]))
        return self._gathered(np.full(rows, chosen), [longest] * rows)

    def _changed(self, rows: list[Row], step: int) -> list[Row]:
        """Return the rows of a step, which sound a little different in every epoch if the recipe asks for it."""
        layout = self._config.layout
        if not isinstance(layout, AudioLayout) or not (self._speed or self._gain):
            return rows
        draws = np.random.default_rng([self._seed, step, 1])
        return [played(row, layout, draws, self._speed, self._gain) for row in rows]

    def _gathered(self, chosen: NDArray[np.int64], rows: list[Row]) -> ExampleBatch:
        config = self._config
        inputs, lengths = inputs_of(rows, config.layout, config.reader)
        return ExampleBatch(inputs, targets_of(self._training.targets[chosen], config), lengths)

    def epoch(self, step: int) -> float:
        return step / (len(self._training) // self.rows)

    def evaluate(self, model: Predictor, ranks: Ranks) -> Measured | None:
        if not len(self._held):
            return None
        return self._measured(shared_tally(model, example_batches(self._held, self._config, self._asked), ranks))

    def _said_of_data(self, recipe: Recipe) -> str:
        names = self._config.answers.names
        shown = ", ".join(names) if len(names) <= 20 else f"{len(names)} of them"
        what = "Classes" if self._config.task.kind == "classify" else "Numbers"
        return (
            f"Each step read {self.rows} of {len(self._training):,} examples, the whole run all of them "
            f"{self.epoch(recipe.train.steps):.1f} times. {what}: {shown}."
        )


def config_of(splits: ExampleSplits, recipe: Recipe) -> PredictorConfig:
    """Return the configuration of the model that a recipe trains on these examples.

    Raises:
        UserError: an answer is not a finite number, or all answers are the same.
    """
    answers = Answers(splits.answers)
    if recipe.task.kind == "regress":
        targets = splits.train.targets.astype(np.float64)
        with np.errstate(invalid="ignore"):  # of infinite numbers, which are refused below
            mean, std = targets.mean(0), targets.std(0)
        if not np.isfinite(mean).all() or not np.isfinite(std).all():
            raise UserError(f"{recipe.data.dataset}: some of the numbers to learn are not finite; leave these rows out")
        if not (std > 0).all():
            name = splits.answers[int(np.argmin(std))]
            raise UserError(f"{recipe.data.dataset}: {name} is the same in all examples, so there is nothing to learn")
        answers = Answers(splits.answers, tuple(mean.tolist()), tuple(std.tolist()))
    return PredictorConfig(splits.layout, recipe.model, recipe.ssm, recipe.task, answers)


def shared_tally(model: Predictor, batches: Any, ranks: Ranks) -> Tally:
    """Return the tally of all batches, of which every rank answers its share; with many ranks without the confusion."""
    found = tally(model, (batch for i, batch in enumerate(batches) if i % ranks.world == ranks.rank))
    if ranks.alone:
        return found
    n, loss, right, absolute, squares = ranks.totals(found.n, found.loss, found.right, found.absolute, found.squares)
    return Tally(round(n), loss, round(right), absolute, squares)
