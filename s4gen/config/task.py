"""The section [task] of a recipe: what a model is trained for, and how a predictor comes to its answer."""

from __future__ import annotations

from dataclasses import dataclass

from s4gen.config.checks import ConfigError, at_least, one_of
from s4gen.config.names import TASKS

READERS = ("auto", "values", "tokens", "spectrum")
POOLS = ("auto", "mean", "last")


@dataclass(frozen=True)
class TaskConfig:
    """The purpose that a model is trained for. A density model has no other setting than `kind`."""

    kind: str = "density"
    """density models the sequences themselves, and can draw new ones. The other kinds are predictors: classify names
    the class of a row, regress gives the numbers that belong to a row, forecast gives the next values of a series."""
    reader: str = "auto"
    """Classification of images and audio only. values reads pixels or samples as numbers, by a linear map. tokens reads
    each value by a table, as a density model does, so that a classifier that begins from one takes its table, too.
    spectrum, for audio only, reads the log spectrum of a clip scaled to unit peak, 100 times a second; it needs
    bidirectional = true, because the peak is known only at the end. auto is tokens for text, and otherwise values."""
    pool: str = "auto"
    """The features that give the answer: mean takes their mean over all positions of a row, last takes those at its
    last position. auto is last for forecast, and otherwise mean."""
    bidirectional: bool = False
    """Whether every layer has a second one that reads from the end of the row to its start. Such a model answers only
    when it has the whole row, so it cannot be stepped."""
    window: int = 0
    """Forecasting only: how many steps are read before a forecast is made."""
    horizon: int = 0
    """Forecasting only: how many steps are forecast."""
    targets: tuple[str, ...] = ()
    """Forecasting only: the columns that are forecast. Empty takes all that are read."""
    relative: bool = True
    """Forecasting only: the model gives the difference to the last value that it has read, as NLinear does (arXiv
    2205.13504). A series whose level drifts away from that of the training part is then forecast from where it is."""

    def __post_init__(self) -> None:
        one_of(TASKS, "task.kind", self.kind)
        one_of(READERS, "task.reader", self.reader)
        one_of(POOLS, "task.pool", self.pool)
        least = 1 if self.kind == "forecast" else 0
        at_least(least, "task", window=self.window, horizon=self.horizon)
        if len(set(self.targets)) < len(self.targets):
            raise ConfigError("task.targets", f"= {list(self.targets)}: expected each column once")

    @property
    def pooling(self) -> str:
        """The pooling that `pool` stands for: mean or last."""
        if self.pool != "auto":
            return self.pool
        return "last" if self.kind == "forecast" else "mean"

    def reading(self, kind: str) -> str:
        """Return the reader for rows of this kind: values, tokens or spectrum."""
        if self.reader != "auto":
            return self.reader
        return "tokens" if kind == "text" else "values"
