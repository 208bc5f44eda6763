"""Read a stream, and say after every few positions what a predictor makes of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.arguments import path_to_write, whole
from s4gen.cli.output import check_file, json_text
from s4gen.cli.predict_input import FORMATS, NOUNS, positions
from s4gen.config import AudioLayout, PredictorConfig
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.sampling.streams import Stream

SUMMARY = "Read a stream or a file, and print class probabilities, numbers or forecasts as they come."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen predict fsdd-digits clip.wav",
    "arecord -f S16_LE -r 8000 | s4gen predict runs/sound/checkpoint --every 8000",
)

PER_SECOND = 10
"""Lines for each second of sound, unless --every says otherwise."""
SHOWN = 5
"""Classes, or steps of a forecast, that a line for people shows; `--json` has all."""

Point = tuple[int, list[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="text, a recording, CSV or .npy (default: standard input)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of the input, where its name does not say: s16le and f32le are raw samples at the model's rate, without "
        "a header (default of standard input: s16le for sound, text for text, csv for series, npy for images)",
    )
    parser.add_argument(
        "--every",
        metavar="N",
        type=whole(1),
        help="positions from one line to the next (default: a tenth of a second of sound, each step of a series, else "
        "the end alone)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in each line")
    parser.add_argument(
        "--plot", metavar="FILE.png", type=path_to_write, help="draw what was printed against the position"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing plot")
    parser.add_argument("--timing", action="store_true", help="add to each line how long a step takes")


def run(args: argparse.Namespace) -> int:
    if args.plot is not None:
        if args.plot.suffix.lower() != ".png":
            raise UserError(f"--plot {args.plot}: plots are written as PNG; use a name that ends in .png")
        check_file(args.plot, args.force)
    from s4gen.checkpoint import load_predictor
    from s4gen.models.predictor import ONE_DIRECTION
    from s4gen.sampling.streams import Stream

    checkpoint = load_predictor(args.checkpoint)
    config = checkpoint.config
    if config.task.bidirectional:
        raise UserError(f"{args.checkpoint}: {ONE_DIRECTION}")
    stream, source = Stream(checkpoint.model), positions(args.file, args.format, checkpoint)
    every = args.every or _usual(config)
    points: list[Point] = []
    problem: UserError | None = None
    try:
        with contextlib.closing(source):
            for _ in stream.answers(source, every):
                if stream.position >= config.task.window:
                    _report(args, config, stream, points if args.plot else None)
    except UserError as error:  # what was read before the fault has an answer all the same
        problem = error
    if not stream.position:
        raise problem or UserError(f"{_called(args.file)} is empty: expected at least one {NOUNS[config.layout.kind]}")
    _report(args, config, stream, points if args.plot else None, final=True)
    _summarise(config, stream)
    if args.plot is not None:
        _draw(args.plot, config, points)
    if problem is not None:
        raise problem
    return 0


def _called(file: str) -> str:
    return "standard input" if file == "-" else file


def _usual(config: PredictorConfig) -> int:
    """Return the number of positions from one line to the next, if the user does not say."""
    if isinstance(config.layout, AudioLayout):
        return max(1, config.layout.rate // PER_SECOND)
    return 1 if config.task.kind == "forecast" else sys.maxsize


def _report(
    args: argparse.Namespace, config: PredictorConfig, stream: Stream, points: list[Point] | None, final: bool = False
) -> None:
    """Print the answer after the last position, and note it for the plot."""
    answer = meaning(stream.answer(), config)
    if points is not None:
        points.append((stream.position, _numbers(answer, config)))
    record: dict[str, Any] = {"position": stream.position}
    if isinstance(config.layout, AudioLayout):
        record["seconds"] = stream.position / config.layout.rate
    if args.timing:
        record["milliseconds_per_step"] = round(1000 * stream.latency.mean, 4)
    if args.json:
        print(json_text(record | answer | ({"final": True} if final else {})), flush=True)
        return
    where = f"{record['seconds']:9.3f} s" if "seconds" in record else f"{stream.position:>9,}"
    timing = f"  ({record['milliseconds_per_step']:.3f} ms a step)" if args.timing else ""
    print(f"{where}  {'in the end: ' if final else ''}{_in_words(answer, config)}{timing}", flush=True)


def meaning(answer: Tensor, config: PredictorConfig) -> dict[str, Any]:
    """Return an answer r(out) in the units of the data, for JSON: probabilities of classes, numbers, or forecasts."""
    names = config.answers.names
    if config.task.kind == "classify":
        probabilities = answer.double().softmax(-1).tolist()
        best = max(range(len(names)), key=probabilities.__getitem__)
        return {"class": names[best], "probabilities": dict(zip(names, probabilities, strict=True))}
    scale = answer.new_tensor(config.answers.std or (1.0,) * len(names)).double()
    centre = answer.new_tensor(config.answers.mean or (0.0,) * len(names)).double()
    rows = answer.double().unflatten(-1, (-1, len(names))) * scale + centre
    if config.task.kind == "forecast":
        return {"forecast": dict(zip(names, rows.T.tolist(), strict=True))}
    return {"numbers": dict(zip(names, rows[0].tolist(), strict=True))}


def _numbers(answer: dict[str, Any], config: PredictorConfig) -> list[float]:
    """Return what the plot shows: all probabilities or numbers, or the first step of each forecast."""
    if config.task.kind == "forecast":
        return [steps[0] for steps in answer["forecast"].values()]
    return list(answer["probabilities" if config.task.kind == "classify" else "numbers"].values())


def _in_words(answer: dict[str, Any], config: PredictorConfig) -> str:
    if config.task.kind == "classify":
        likely = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:SHOWN]
        return "  ".join(f"{name} {probability:.3f}" for name, probability in likely)
    if config.task.kind == "regress":
        return "  ".join(f"{name} {value:.6g}" for name, value in answer["numbers"].items())
    shown = []
    for name, steps in answer["forecast"].items():
        more = f" .. {steps[-1]:.6g}" if len(steps) > SHOWN else ""
        shown.append(f"{name} {', '.join(f'{value:.6g}' for value in steps[:SHOWN])}{more}")
    return "  ".join(shown)


def _summarise(config: PredictorConfig, stream: Stream) -> None:
    """Say on standard error how long the steps took, and whether the stream was of a length that was trained."""
    latency, noun = stream.latency, NOUNS[config.layout.kind]
    line = f"{stream.position:,} {noun}s, {1000 * latency.mean:.3f} ms each (longest {1000 * latency.longest:.1f} ms)"
    if isinstance(config.layout, AudioLayout):
        line += f", {1 / (latency.mean * config.layout.rate):.2f} times real time"
    print(f"s4gen: {line}", file=sys.stderr)
    if 0 < stream.position < config.task.window:
        print(
            f"s4gen: the forecast is of {stream.position:,} steps alone, where the model was trained on "
            f"{config.task.window:,}; give it as many",
            file=sys.stderr,
        )


def _draw(path: Path, config: PredictorConfig, points: list[Point]) -> None:
    from s4gen.files.atomic import write_file_atomic
    from s4gen.showing.plots import curves_over

    label, scale = NOUNS[config.layout.kind], 1.0
    if isinstance(config.layout, AudioLayout):
        label, scale = "seconds", 1 / config.layout.rate
    names = config.answers.names
    curves = {name: [(scale * at, values[i]) for at, values in points] for i, name in enumerate(names)}
    y_label = {"classify": "probability", "regress": "value", "forecast": "forecast of the next step"}
    write_file_atomic(path, curves_over(curves, label, y_label[config.task.kind]))
