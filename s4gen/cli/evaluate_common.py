"""The parts of `s4gen eval` that all media share: who scores, and the two forms of a result."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s4gen.errors import UserError
from s4gen.machine.device import best_device

if TYPE_CHECKING:
    from s4gen.evaluate.scorers import Scorer
    from s4gen.models.density import DensityModel
    from s4gen.sampling.convert import RecurrentModel
    from s4gen.sampling.engines import Engine


@dataclass(frozen=True)
class Outcome:
    """A result of `s4gen eval` in both of its forms."""

    values: dict[str, Any]
    """For `--json`."""
    text: str
    """For people: a line, or several."""


@dataclass(frozen=True)
class View:
    """The view of the model that `--mode` and `--engine` ask for, and what it scores with."""

    mode: str
    score: Scorer
    engine: Engine | None

    # Both methods are for the end: an engine that fails while it runs goes on as another one, under the other's name.

    def __str__(self) -> str:
        """Return the view in words."""
        return f"{self.mode} mode" + (f", {self.engine.name} engine" if self.engine else "")

    def about(self, args: argparse.Namespace, dataset: str) -> dict[str, Any]:
        """Return what stands beside every result: the data, the checkpoint, and the engine if there is one."""
        data = {"split": args.split, "dataset": dataset, "checkpoint": args.checkpoint}
        return data | ({"engine": self.engine.name} if self.engine else {})


def check_is_number(cost: float, name: str) -> None:
    """Refuse to report what a model costs if that is no number (NaN), or infinite.

    Raises:
        UserError: it is not finite.
    """
    if not math.isfinite(cost):
        raise UserError(
            f"{name}: the cost of these data under the model is not a finite number; its training must have diverged"
        )


def view_of(
    args: argparse.Namespace, model: DensityModel, recurrent: Callable[[], RecurrentModel], tokens: int
) -> View:
    """Put the model, or what `recurrent` converts it to, on the best device, ready to score `tokens` tokens."""
    from s4gen.evaluate.scorers import by_convolution, by_recurrence

    if args.mode == "conv":
        return View(args.mode, by_convolution(model.to(best_device())), None)
    from s4gen.sampling.engines import make_engine

    converted = recurrent().to(best_device())
    engine = make_engine(args.engine or "eager", converted, tokens=tokens)
    return View(args.mode, by_recurrence(converted, engine), engine)
