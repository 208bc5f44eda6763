"""`s4gen eval` of a predictor: accuracy and cross-entropy of classes, errors of numbers and forecasts."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from s4gen.cli.dataset import dataset_of
from s4gen.cli.evaluate_common import Outcome
from s4gen.cli.output import shows_progress
from s4gen.cli.rates import at_rate, rate_of
from s4gen.config import AudioLayout, DataConfig, SeriesLayout
from s4gen.errors import UserError
from s4gen.machine.device import best_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s4gen.checkpoint import PredictorCheckpoint
    from s4gen.data.examples import Examples, Series
    from s4gen.evaluate.predictions import Answered, Answering, Tally

SHOWN_CLASSES = 12
"""The most classes whose confusions are shown as a table of text; `--json` has them for any number up to MOST."""
MOST = 100


def evaluate(args: argparse.Namespace, checkpoint: PredictorCheckpoint) -> Outcome:
    """Measure a predictor on a split of the data that it was trained on, or of others that the arguments name.

    Raises:
        UserError: the arguments, the data and the model do not go together.
    """
    from s4gen.evaluate.predictions import tally

    check_options(args, checkpoint)
    data, config = data_of(args, checkpoint), checkpoint.config
    batches = _windows(args, checkpoint, data) if config.task.kind == "forecast" else _examples(args, checkpoint, data)
    found = tally(_view(args, checkpoint), batches)
    values: dict[str, Any] = dict(found.values(config)) | {"n": found.n, "seconds": found.seconds, "mode": args.mode}
    values |= {"task": config.task.kind, "split": args.split, "dataset": data.dataset, "checkpoint": args.checkpoint}
    if config.task.kind == "forecast":
        values |= {"horizon": config.task.horizon, "window": config.task.window, "targets": list(config.answers.names)}
    if args.rate is not None:
        values |= {"rate_factor": args.rate, "rate": data.rate, "dt_rescaled": not args.keep_dt}
    names = config.answers.names
    if config.task.kind == "classify" and len(names) <= MOST:
        values |= {"classes": list(names), "confusion": _confusion(found, len(names))}
    return Outcome(values, _said(args, checkpoint, data, found))


def check_options(args: argparse.Namespace, checkpoint: PredictorCheckpoint) -> None:
    """Refuse options that say nothing to this predictor.

    Raises:
        UserError: there is one.
    """
    config = checkpoint.config
    for option, given in (("--chunk", args.chunk), ("--windows", args.windows), ("--engine", args.engine)):
        if given is not None:
            raise UserError(f"{option} is for density models, and {args.checkpoint} is none; leave it out")
    if args.mode == "recurrent" and config.task.bidirectional:
        from s4gen.models.predictor import ONE_DIRECTION

        raise UserError(f"--mode recurrent: {ONE_DIRECTION}")
    if args.keep_dt and args.rate is None:
        raise UserError("--keep-dt is the control for another --rate; add one, such as --rate 0.5")
    if args.rate is not None and not isinstance(config.layout, AudioLayout):
        raise UserError(
            f"--rate is for audio, and {args.checkpoint} reads data of kind {config.layout.kind}; leave it out"
        )
    if args.rate is not None and config.reader == "spectrum":
        raise UserError(
            f"--rate: {args.checkpoint} reads spectra of {config.layout.rate:,} samples per second, which no dt can "  # type: ignore[union-attr]
            'change; train one with task.reader = "values"'
        )


def data_of(args: argparse.Namespace, checkpoint: PredictorCheckpoint) -> DataConfig:
    """Return the data that are to be read: those of the recipe, or of `--dataset`, at the rate that is asked for."""
    recipe, layout = checkpoint.recipe, checkpoint.config.layout
    # Without a recipe nobody knows what was held out of the training split, so nothing is.
    data = DataConfig(args.dataset or dataset_of(checkpoint), validation=0) if recipe is None else recipe.data
    if args.dataset is not None:
        data = dataclasses.replace(data, dataset=args.dataset)
    if isinstance(layout, AudioLayout):
        rate = layout.rate if args.rate is None else rate_of(layout.rate, args.rate)
        data = dataclasses.replace(data, rate=rate, law=layout.law, bits=layout.bits, normalise=layout.normalise)
    return data


def _examples(args: argparse.Namespace, checkpoint: PredictorCheckpoint, data: DataConfig) -> Iterable[Answered]:
    """Open a split of examples, check that it fits the model, and return its batches."""
    from s4gen.data.labelled.opening import open_examples
    from s4gen.evaluate.predictions import example_batches

    config = checkpoint.config
    splits = open_examples(data, config.task, shows_progress())
    for line in splits.notes:
        print(f"s4gen: {data.dataset}: {line}", file=sys.stderr)
    if splits.answers != config.answers.names:
        raise UserError(
            f"{args.checkpoint} answers {_named(config.answers.names)}, and {data.dataset} has "
            f"{_named(splits.answers)}; choose a fitting data set"
        )
    there, wanted = splits.layout, config.layout
    same = there
    if isinstance(there, AudioLayout) and isinstance(wanted, AudioLayout):
        same = dataclasses.replace(there, rate=wanted.rate)
    if isinstance(there, SeriesLayout) and isinstance(wanted, SeriesLayout):
        same = dataclasses.replace(wanted, columns=there.columns, times=there.times)
    if same != wanted:
        raise UserError(
            f"{args.checkpoint} reads {wanted}, and {data.dataset} holds {there}; choose a fitting data set"
        )
    if splits.tokenizer is not None and splits.tokenizer.fingerprint != checkpoint.tokenizer().fingerprint:
        raise UserError(f"the texts of {data.dataset} make another tokeniser than that of {args.checkpoint}")
    examples = splits.split(args.split)
    if isinstance(there, SeriesLayout) and isinstance(wanted, SeriesLayout):
        examples = rows_scaled_as(examples, there, wanted)
    return example_batches(examples.spread(args.limit or len(examples)), config, args.batch)


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def _windows(args: argparse.Namespace, checkpoint: PredictorCheckpoint, data: DataConfig) -> Iterable[Answered]:
    """Open a series, scale it as the model was trained, and return batches of the windows of a split."""
    from s4gen.data.examples import spread_over, windows
    from s4gen.data.labelled.series import open_series
    from s4gen.evaluate.predictions import window_batches

    config = checkpoint.config
    series = scaled_as(open_series(data, config.task), config.layout, args.checkpoint)  # type: ignore[arg-type]
    starts = windows(series, args.split, config.task.window, config.task.horizon)
    for line in series.notes:
        print(f"s4gen: {data.dataset}: {line}", file=sys.stderr)
    return window_batches(series, starts[spread_over(len(starts), args.limit or len(starts))], config, args.batch)


def scaled_as(series: Series, layout: SeriesLayout, model: str) -> Series:
    """Return the series standardised by the means of the layout.

    Raises:
        UserError: it has other columns.
    """
    import numpy as np

    if (series.columns, series.time_names) != (layout.columns, layout.times):
        raise UserError(
            f"{model} reads the columns {', '.join((*layout.columns, *layout.times))}, and the file gives "
            f"{', '.join((*series.columns, *series.time_names))}; choose a fitting data set"
        )
    mean, std = np.array(layout.mean), np.array(layout.std)
    if np.array_equal(mean, series.mean) and np.array_equal(std, series.std):
        return series
    values = _scaled(series.values, series.mean, series.std, layout)
    return dataclasses.replace(series, values=values, mean=mean, std=std)


def rows_scaled_as(examples: Examples, there: SeriesLayout, layout: SeriesLayout) -> Examples:
    """Return examples standardised by the means of `layout`; they are standardised by those of `there`."""
    import numpy as np

    if (there.mean, there.std) == (layout.mean, layout.std):
        return examples
    from s4gen.data.labelled.rows import Rows

    rows, mean, std = examples.inputs, np.array(there.mean), np.array(there.std)
    assert isinstance(rows, Rows)  # so that a row of a large file is read and scaled when it is asked for
    convert = rows.convert or (lambda row: row)
    scaled = dataclasses.replace(rows, convert=lambda row: _scaled(convert(row), mean, std, layout))
    return dataclasses.replace(examples, inputs=scaled)


def _scaled(
    values: NDArray[np.float32], mean: NDArray[np.float64], std: NDArray[np.float64], layout: SeriesLayout
) -> NDArray[np.float32]:
    """Return values (n, C), standardised by `mean` and `std`, standardised by those of the layout instead."""
    import numpy as np

    return ((values * std + mean - np.array(layout.mean)) / np.array(layout.std)).astype(np.float32)


def _view(args: argparse.Namespace, checkpoint: PredictorCheckpoint) -> Answering:
    """Return the model, at the rate and in the mode that are asked for, on the best device."""
    model = checkpoint.model
    if args.rate is not None and not args.keep_dt:
        model = at_rate(checkpoint, args.rate)
    model = model.to(best_device())
    if args.mode == "conv":
        return model
    from s4gen.sampling.streams import Stepped

    return Stepped(model)


def _confusion(found: Tally, n: int) -> list[list[int]]:
    """Return how many examples of each class (row) were given to each class (column)."""
    return [[found.confusion.get((true, given), 0) for given in range(n)] for true in range(n)]


def _said(args: argparse.Namespace, checkpoint: PredictorCheckpoint, data: DataConfig, found: Tally) -> str:
    """Return the result for people."""
    config, values = checkpoint.config, found.values(checkpoint.config)
    at = ""
    if args.rate is not None:
        dt = "dt as it was, the control" if args.keep_dt else f"every dt times {1 / args.rate:.3g}"
        at = f" at {data.rate:,} Hz ({dt})"
    head = f"{args.checkpoint} on {data.dataset} {args.split}{at}: "
    tail = f"{args.mode} mode, {found.seconds:.1f} s)"
    if config.task.kind == "classify":
        line = (
            f"{head}accuracy {100 * values['accuracy']:.2f} ± {100 * values['stderr']:.2f} %, cross-entropy "
            f"{values['cross_entropy']:.4f} nats ({found.n:,} examples, {tail}"
        )
        names = config.answers.names
        return line + (_table(_confusion(found, len(names)), names) if len(names) <= SHOWN_CLASSES else "")
    errors = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    if config.task.kind == "forecast":
        return f"{head}{errors} of standardised values, horizon {config.task.horizon} ({found.n:,} windows, {tail}"
    return f"{head}{errors} ({found.n:,} examples, {tail}"


def _table(confusion: list[list[int]], names: tuple[str, ...]) -> str:
    """Return lines of how often each class (row) was taken for each other (column)."""
    width = max(len(name) for name in names)
    cell = max(len(str(max(map(max, confusion)))), 3, *(min(len(name), 8) for name in names))
    lines = [" " * width + "".join(f" {name[:cell]:>{cell}}" for name in names)]
    for name, row in zip(names, confusion, strict=True):
        lines.append(f"{name:>{width}}" + "".join(f" {number:>{cell}}" for number in row))
    return "\n".join(["", "true class in rows, answer in columns:", *lines])
