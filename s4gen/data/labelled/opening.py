"""Opening the data sets of predictors, by the names of the recipes."""

from __future__ import annotations

from s4gen.config import DataConfig, TaskConfig
from s4gen.data.examples import ExampleSplits, Series
from s4gen.errors import UserError


def open_examples(data: DataConfig, task: TaskConfig, progress: bool = False) -> ExampleSplits:
    """Open all splits of a set of examples.

    Raises:
        UserError: there is no such set, or it cannot be used.
    """
    raise UserError(f"{data.dataset} cannot be opened")


def open_series(data: DataConfig, task: TaskConfig) -> Series:
    """Open a series that is to be forecast.

    Raises:
        UserError: there is no such series, or it cannot be used.
    """
    raise UserError(f"{data.dataset} cannot be opened")
