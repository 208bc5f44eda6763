"""The parts of `s4gen eval` that all media share: who scores, how scores are collected, both forms of a result."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s4gen.bulk.dealing import Piece, pieces
from s4gen.cli.output import shows_progress
from s4gen.cli.shards import write_part
from s4gen.errors import UserError
from s4gen.machine.device import best_device
from s4gen.showing.progress import progress_bar

if TYPE_CHECKING:
    from s4gen.bulk.block_files import Arrays
    from s4gen.checkpoint import Checkpoint
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


Shown = dict[str, Any]
"""Facts that a result states beside its numbers, as plain values: the data, the checkpoint, the view of the model."""


@dataclass(frozen=True)
class Scoring:
    """The computation of one `s4gen eval`, in rows that several processes can share."""

    kind: str
    view: View
    batches: Sequence[range]
    """The rows, in the batches in which they are scored."""
    score: Callable[[Piece], Arrays]
    """Scores the rows of a piece: arrays (rows,) by name, "nats" among them."""
    outcome: Callable[[Shown, Arrays, float], Outcome]
    """Makes the result of what is shown, the arrays of all rows, and seconds."""
    shown: Shown
    options: dict[str, Any]
    """Every setting that the scores depend on, beside the model."""
    unit: str
    """The noun for a row in a progress bar, such as "image"."""
    carries: bool = False
    """Whether a piece can be scored only behind all pieces before it."""


def scored(args: argparse.Namespace, scoring: Scoring) -> Outcome:
    """Score all rows, and return the result."""
    import numpy as np

    from s4gen.machine.memory import keep_freed_memory

    keep_freed_memory()
    began, found = time.perf_counter(), []
    total = scoring.batches[-1].stop
    with progress_bar(total, scoring.unit, shows_progress(), desc=f"scoring ({args.mode})") as bar:
        for piece in pieces(scoring.batches):
            found.append(scoring.score(piece))
            bar.update(len(piece.own))
    arrays = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return scoring.outcome(_shown(args, scoring), arrays, time.perf_counter() - began)


def score_part(args: argparse.Namespace, checkpoint: Checkpoint, scoring: Scoring) -> None:
    """Score the shard that `--shard` asks for, into its part."""
    from s4gen.bulk.part import Run
    from s4gen.machine.memory import keep_freed_memory

    keep_freed_memory()
    shown, rows = _shown(args, scoring), scoring.batches[-1].stop
    options = scoring.options | {"mode": args.mode, "engine": shown["engine"], "batch": args.batch}
    run = Run("eval", scoring.kind, checkpoint.digest(), options, shown, rows)
    write_part(args, run, scoring.batches, scoring.score, scoring.score if scoring.carries else None)


def _shown(args: argparse.Namespace, scoring: Scoring) -> Shown:
    # Asked for at the end where that is possible: an engine that fails goes on as another one, under the other's name.
    return scoring.shown | {
        "checkpoint": str(args.checkpoint),
        "split": args.split,
        "mode": args.mode,
        "engine": scoring.view.engine.name if scoring.view.engine else None,
    }


def about(shown: Shown) -> dict[str, Any]:
    """Return what stands beside every result: the data, the checkpoint, and the engine if there is one."""
    found = {name: shown[name] for name in ("split", "dataset", "checkpoint")}
    return found | ({"engine": shown["engine"]} if shown["engine"] else {})


def view_in_words(shown: Shown) -> str:
    """Return by which view of the model, and in which engine, scores were made."""
    return f"{shown['mode']} mode" + (f", {shown['engine']} engine" if shown["engine"] else "")


@dataclass(frozen=True)
class View:
    """The view of the model that `--mode` and `--engine` ask for, and what it scores with."""

    score: Scorer
    engine: Engine | None


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
    args: argparse.Namespace,
    model: DensityModel,
    recurrent: Callable[[], RecurrentModel],
    tokens: int,
    rows: int,
    in_pieces: bool = False,
) -> View:
    """Put the model, or what `recurrent` converts it to, on the best device, ready to score `tokens` tokens.

    Where more than one row is scored at a time, a row costs the same on a CPU whichever rows are beside it.
    With `in_pieces`, a sequence is scored in several pieces, with the state between them.
    """
    from s4gen.evaluate.scorers import by_convolution, by_recurrence, in_whole_rows
    from s4gen.models.states import least_length, row_multiple

    engine: Engine | None = None
    if args.mode == "conv":
        score, multiple = by_convolution(model.to(best_device())), row_multiple(model.config.ssm.d_state)
    else:
        from s4gen.sampling.engines import make_engine

        converted = recurrent().to(best_device())
        engine = make_engine(args.engine or "eager", converted, tokens=tokens)
        score, multiple = by_recurrence(converted, engine), engine.row_multiple
    # Steps are computed one by one, whatever the length.
    least = 0 if in_pieces or engine is not None else least_length(model.config)
    return View(score if rows == 1 else in_whole_rows(score, multiple, least), engine)
