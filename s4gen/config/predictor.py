"""The whole configuration of a predictor: what it reads, what it answers, the stack, and its state space layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from s4gen.config.checks import ConfigError
from s4gen.config.combinations import check_pair, key_of_rows, refuse_foreign
from s4gen.config.layouts import ImageLayout, InputLayout, SeriesLayout, TextLayout
from s4gen.config.mixers import MIXERS
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.task import TaskConfig


@dataclass(frozen=True)
class Answers:
    """The meaning of a predictor's outputs."""

    names: tuple[str, ...]
    """The names of the classes, of the numbers of a regression, or of the columns that are forecast."""
    mean: tuple[float, ...] = ()
    """For numbers, the mean of each over the training part. A model gives them standardised: less this mean ..."""
    std: tuple[float, ...] = ()
    """... and divided by this standard deviation."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("answers.names", "= []: expected at least one name")
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, len(self.names)):
            raise ConfigError("answers.mean", f"= {list(self.mean)}: expected a mean and a std for each name, or none")
        if not all(0 < std < math.inf for std in self.std):
            raise ConfigError("answers.std", f"= {list(self.std)}: expected finite numbers greater than 0")


@dataclass(frozen=True)
class PredictorConfig:
    """Everything that defines a predictor except its weights."""

    layout: InputLayout
    """The kind and size of the rows that it reads."""
    model: ModelConfig
    """The stack."""
    ssm: SSMConfig
    """The state space layers in the stack."""
    task: TaskConfig
    """The question that it answers, and how it reads and pools."""
    answers: Answers
    """The meaning of its outputs."""

    def __post_init__(self) -> None:
        kind = self.layout.kind
        check_pair(self.model, self.ssm)
        check_predictor(self.task, self.model, kind, f"data of kind {kind}")
        refuse_foreign(kind, f"data of kind {kind}", self.task.kind, model=self.model, task=self.task)
        self._check_pixels()
        if self.task.kind == "classify" and len(self.answers.names) < 2:
            raise ConfigError("answers.names", f"= {list(self.answers.names)}: there is nothing to tell apart")
        if self.task.kind == "forecast":
            missing = set(self.answers.names) - set(getattr(self.layout, "columns", ()))
            if missing:
                raise ConfigError(
                    "answers.names", f"has {sorted(missing)[0]}, which is none of the columns that are read"
                )
        if isinstance(self.layout, TextLayout) and self.model.cutoffs and self.model.cutoffs[-1] >= self.layout.vocab:
            raise ConfigError(
                "model.cutoffs",
                f"= {list(self.model.cutoffs)}: expected numbers below the vocabulary of {self.layout.vocab}",
            )

    def _check_pixels(self) -> None:
        """Raise ConfigError for layers that know rows and columns where a position is less than a pixel."""
        key = key_of_rows(self.model)
        if key and isinstance(self.layout, ImageLayout) and self.layout.channels > 1 and self.reader == "tokens":
            raise ConfigError(key, 'goes with task.reader = "values", which reads a whole pixel at each position')

    @property
    def reader(self) -> str:
        """How rows are read: values, tokens or spectrum."""
        return self.task.reading(self.layout.kind)

    @property
    def channels(self) -> int:
        """How many numbers are read at a position, where numbers are read and not tokens."""
        return self.layout.channels if isinstance(self.layout, ImageLayout | SeriesLayout) else 1

    @property
    def n_out(self) -> int:
        """How many numbers an answer has: a logit for each class, or the horizon's steps of each column."""
        return len(self.answers.names) * (self.task.horizon if self.task.kind == "forecast" else 1)


def check_predictor(task: TaskConfig, model: ModelConfig, kind: str, what: str) -> None:
    """Raise ConfigError for a stack or a reader that a predictor cannot have; `what` names the data."""
    if task.kind == "density":
        raise ConfigError("task.kind", '= "density" is no predictor: expected classify, regress or forecast')
    if model.traits.whole_stack:
        expected = ", ".join(mixer.name for mixer in MIXERS.values() if not mixer.whole_stack)
        raise ConfigError("model.mixer", f'= "{model.mixer}" is for density models: expected one of {expected}')
    if model.traits.needs_window and not model.window:
        raise ConfigError("model.window", f"= 0: {model.mixer} needs a window, such as 512, on {what}")
    if task.bidirectional and model.traits.mixes_features:
        expected = ", ".join(mixer.name for mixer in MIXERS.values() if not mixer.mixes_features)
        raise ConfigError(
            "model.mixer", f'= "{model.mixer}" does not go with task.bidirectional = true: expected one of {expected}'
        )
    if (task.reader == "tokens" and kind == "series") or (task.reader == "values" and kind == "text"):
        raise ConfigError("task.reader", f'= "{task.reader}" does not go with {what}: leave it out')
    if task.reader == "spectrum" and (kind != "audio" or not task.bidirectional):
        problem = (
            "goes with audio" if kind != "audio" else "needs task.bidirectional = true, because the peak of a clip is"
        )
        problem += f", not with {what}" if kind != "audio" else " known only at its end"
        raise ConfigError("task.reader", f'= "spectrum" {problem}')
