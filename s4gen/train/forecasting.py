"""Training a forecaster: windows of a series are read, and the steps that follow each are to be told."""

from __future__ import annotations

import sys

import numpy as np
import torch

from s4gen.config import Answers, PredictorConfig, Recipe, SeriesLayout
from s4gen.data.examples import Series, spread_over, windows
from s4gen.data.labelled.series import open_series
from s4gen.errors import UserError
from s4gen.evaluate.predictions import WindowCutter, window_batches
from s4gen.models.predictor import Predictor
from s4gen.train.batches import ExampleBatch
from s4gen.train.examples import PredictorTask, shared_tally
from s4gen.train.images import batch_indices
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import Measured

CPU = torch.device("cpu")


class ForecastTask(PredictorTask):
    """A task that reads windows of a series in random order, and learns what follows."""

    unit = "windows"

    def __init__(self, recipe: Recipe, progress: bool = True) -> None:
        series, train = open_series(recipe.data, recipe.task), recipe.train
        super().__init__(config_of(series, recipe))
        task = recipe.task
        self._series, self._cut = series, WindowCutter(series, self._config)
        self._starts = windows(series, "train", task.window, task.horizon)
        self._held = np.zeros(0, np.int64)
        if recipe.data.validation:
            held = windows(series, "validation", task.window, task.horizon)
            self._held = held[spread_over(len(held), train.eval_limit)]
        for line in series.notes if progress else ():
            print(f"s4gen: {recipe.data.dataset}: {line}", file=sys.stderr)
        self.rows = min(train.batch_size, len(self._starts))
        self._seed = train.seed

    def batch(self, step: int) -> ExampleBatch:
        chosen = batch_indices(len(self._starts), self.rows, self._seed, step, CPU)
        return ExampleBatch(*self._cut(self._starts[chosen.numpy()]))

    def example(self, rows: int) -> ExampleBatch:
        return ExampleBatch(*self._cut(np.repeat(self._starts[:1], rows)))

    def epoch(self, step: int) -> float:
        return step / (len(self._starts) // self.rows)

    def evaluate(self, model: Predictor, ranks: Ranks) -> Measured | None:
        if not len(self._held):
            return None
        return self._measured(
            shared_tally(model, window_batches(self._series, self._held, self._config, self.rows), ranks)
        )

    def _said_of_data(self, recipe: Recipe) -> str:
        task, names = recipe.task, ", ".join(self._config.answers.names)
        return (
            f"Each step read {self.rows} windows of {task.window} steps; the {task.horizon} steps of {names} that "
            f"follow were forecast. The whole run read the {len(self._starts):,} windows of the training part "
            f"{self.epoch(recipe.train.steps):.1f} times. Errors are of standardised values."
        )


def config_of(series: Series, recipe: Recipe) -> PredictorConfig:
    """Return the configuration of the model that a recipe trains on this series.

    Raises:
        UserError: a column that is to be forecast is not read.
    """
    names = recipe.task.targets or series.columns
    if missing := [name for name in names if name not in series.columns]:
        raise UserError(
            f"task.targets has {missing[0]}, which is none of the columns that are read: {', '.join(series.columns)}"
        )
    mean, std = tuple(series.mean.tolist()), tuple(series.std.tolist())
    layout = SeriesLayout(series.columns, mean, std, series.time_names, recipe.task.window)
    places = [series.columns.index(name) for name in names]
    answers = Answers(tuple(names), tuple(mean[i] for i in places), tuple(std[i] for i in places))
    return PredictorConfig(layout, recipe.model, recipe.ssm, recipe.task, answers)
