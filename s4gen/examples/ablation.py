"""Measure what each part of an image model is worth at equal time: a training per part, a table and a plot.

    python -m s4gen.examples.ablation --minutes 10 [--rows ROW ...] [--seeds 0 1] [-o DIR]

Every row of the table changes a few keys of the recipe cifar10-small, trains for the same time, and is scored on the
first 500 test images. The program first measures how long a step of each row takes, one row after the other, and keeps
that in speeds.json; each row then takes as many steps as fit into the time. So let nothing else run during the first
minutes. What runs beside the trainings afterwards does not change their result.

You may stop the program and start it again: it does not repeat a row that is finished, and it goes on with one that was
stopped on the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from s4gen import train
from s4gen.checkpoint import load_checkpoint
from s4gen.cli.arguments import number, whole
from s4gen.cli.output import shows_progress
from s4gen.config import Recipe, load_recipe
from s4gen.data import open_split
from s4gen.data.images import to_sequence
from s4gen.errors import UserError
from s4gen.evaluate.images import evaluate_images
from s4gen.evaluate.scorers import by_convolution
from s4gen.examples.arguments import Parser
from s4gen.files import expected
from s4gen.files.atomic import write_file_atomic
from s4gen.files.parsing import read_json
from s4gen.machine.device import best_device
from s4gen.showing import plots
from s4gen.train.metrics import read_metrics
from s4gen.train.opening import open_task
from s4gen.train.steps_in_time import filling, seconds_per_step

TEST_IMAGES, BATCH = 500, 20
MEASURING = 30.0
"""How many seconds the program spends on measuring the steps of a row."""
COMMON = ("train.batch_size=4", "model.n_layers=4", "optim.ema_decay=0.995", "train.n_samples=0")

TOKENS = ("model.whole_pixels=false", "model.neighbourhood=0", "model.taps=false", "model.scan=['raster']")
PLAIN = ("model.head=categorical", "model.zero_start=false", "optim.muon_lr=0")
LONG = ("ssm.d_state=64", "ssm.dt_min=1e-3", "ssm.dt_max=1e-1")
"""Where layers along the whole raster start: they have to remember many more steps than axial ones."""
RASTER = ("model.scan=['raster']", "ssm.dt_min=1e-3", "ssm.dt_max=1e-1")

ROWS: dict[str, tuple[str, ...]] = {
    "values as tokens": (*TOKENS, *PLAIN, *LONG, "model.d_model=96", "model.d_ff=192", "optim.lr=8e-3"),
    "+ whole pixels": (*RASTER, "model.neighbourhood=0", "model.taps=false", *PLAIN),
    "+ neighbourhood": (*RASTER, "model.taps=false", *PLAIN),
    "+ taps": (*RASTER, *PLAIN),
    "+ mixture around the predictor": (*RASTER, "model.zero_start=false", "optim.muon_lr=0"),
    "+ zero start": (*RASTER, "optim.muon_lr=0"),
    "+ Muon": RASTER,
    "axial: rows and columns in turn": (),
    "columns alone": ("model.scan=['column']",),
    "one raster layer among taps": ("model.scan=['none','none','none','raster']", *RASTER[1:]),
    "axial in the upper half": ("model.scan=['none','none','row','column']",),
    "without SSM": ("model.scan=['none']",),
    "Transformer, same stem and head": (
        "model.mixer=attention",
        "model.scan=['raster']",
        "model.taps=false",
        "model.d_ff=154",  # as many parameters as the axial model
    ),
}
"""Each of the first seven rows adds one thing to the row above it; the others change the seventh."""


def main(arguments: list[str] | None = None) -> int:
    """Run the rows that have no result yet, then write table.md, results.json and curves.png. Return the exit code."""
    parser = Parser(
        prog="python -m s4gen.examples.ablation",
        description="Measure what each part of an image model is worth when all are trained for equal time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--minutes",
        metavar="M",
        type=number("minutes above 0", lambda value: value > 0),
        default=10.0,
        help="minutes of training for each row and seed",
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW", help="names of the rows to train")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole(0),
        default=[0],
        metavar="SEED",
        help="seeds, with each of which a row is trained",
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=Path, default=Path("runs/ablation"), help="the folder for runs and table"
    )
    args = parser.parse_args(arguments)
    if unknown := [row for row in args.rows if row not in ROWS]:
        return parser.refuse(f"no row is called {unknown[0]!r}; expected one of {', '.join(map(repr, ROWS))}")
    try:
        speeds = measured_speeds(args.rows, args.out / "speeds.json")
        found = []
        for seed, row in itertools.product(args.seeds, args.rows):
            if (one := measured(row, seed, args.minutes, speeds[row], args.out)) is None:
                return 130
            found.append(one)
    except UserError as error:
        return parser.refuse(str(error))
    write_results(args.out, found)
    print((args.out / "table.md").read_text(encoding="utf-8"))
    return 0


def recipe_of(row: str, seed: int, minutes: float, per_step: float) -> Recipe:
    """Return the recipe that a row trains, with as many steps as fit into the minutes at `per_step` seconds each."""
    every = 10**9  # no evaluation on the way, since it would cost the rows unequal time
    overrides = (f"train.minutes={minutes}", f"train.seed={seed}", f"train.eval_every={every}", "data.validation=1000")
    recipe = filling(load_recipe("cifar10-small", (*COMMON, *overrides, "train.save_every=100", *ROWS[row])), per_step)
    # With `minutes` set, training would measure the speed again and choose its own number of steps.
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, minutes=None))


def measured_speeds(rows: list[str], path: Path) -> dict[str, float]:
    """Return the seconds per step of every row; those that `path` does not hold are measured and written to it."""
    speeds: dict[str, float] = _read(path, expected.mapping(expected.number(0))) if path.is_file() else {}
    for row in rows:
        if row not in speeds:
            recipe, device = recipe_of(row, 0, 1.0, 1.0), best_device()
            speeds[row] = seconds_per_step(recipe, open_task(recipe, device, progress=False), device, MEASURING)
            print(f"{row}: {speeds[row]:.3f} s a step", file=sys.stderr)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file_atomic(path, (json.dumps(speeds, indent=2) + "\n").encode())
    return speeds


def measured(row: str, seed: int, minutes: float, per_step: float, out: Path) -> dict[str, Any] | None:
    """Train a row, or go on with it, and score it. Return None if a signal, such as Ctrl-C, stopped the training."""
    folder = out / f"{list(ROWS).index(row):02d}-{minutes:g}min-seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        print(f"{row}, seed {seed}: {folder}", file=sys.stderr)
        resume = (folder / "checkpoint").is_dir()
        recipe = None if resume else recipe_of(row, seed, minutes, per_step)
        if not train.run(recipe, folder, resume=resume, overwrite=True, progress=shows_progress()):
            return None
        write_file_atomic(result, (json.dumps(_scored(row, seed, per_step, folder), indent=2) + "\n").encode())
    found: dict[str, Any] = _read(result, expected.mapping(expected.anything))
    return found | {"folder": str(folder)}


def _read(path: Path, check: expected.Check) -> dict[str, Any]:
    """Return what an earlier call has measured and written to a file.

    Raises:
        UserError: the file holds something else.
    """
    found: dict[str, Any] = read_json(path, lambda value: check(value, ""), advice="remove it to measure again")
    return found


def _scored(row: str, seed: int, per_step: float, folder: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder / "checkpoint")
    test = to_sequence(open_split("cifar10", "test").images[:TEST_IMAGES])
    model = checkpoint.model
    found = evaluate_images(by_convolution(model), test, model.bos, BATCH, "conv")
    return {
        "row": row,
        "seed": seed,
        "steps": checkpoint.metrics["step"],
        "seconds_per_step": per_step,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bits_per_dim": found.bits_per_dim,
        "stderr": found.stderr,
    }


def write_results(out: Path, found: list[dict[str, Any]]) -> None:
    """Write table.md and results.json with all rows, and curves.png with the training loss against time."""
    lines = [
        f"| row | parameters | steps of 4 images | seconds a step | bits/dim, first {TEST_IMAGES} test images | seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    curves = {}
    for one in found:
        bits = f"{one['bits_per_dim']:.3f} ± {one['stderr']:.3f}"
        counts = f"{one['parameters']:,} | {one['steps']:,} | {one['seconds_per_step']:.3f}"
        lines.append(f"| {one['row']} | {counts} | {bits} | {one['seed']} |")
        name = one["row"] if one["seed"] == found[0]["seed"] else f"{one['row']}, seed {one['seed']}"
        rows = [row for row in read_metrics(Path(one["folder"])) if row["split"] == "train"]
        curves[name] = [(row["step"] * one["seconds_per_step"] / 60, row["bits_per_dim"]) for row in rows]
    write_file_atomic(out / "table.md", ("\n".join(lines) + "\n").encode())
    plain = [{key: value for key, value in one.items() if key != "folder"} for one in found]
    write_file_atomic(out / "results.json", (json.dumps(plain, indent=2) + "\n").encode())
    write_file_atomic(out / "curves.png", plots.learning_curves(curves, "minutes of training", "bits/dim"))


if __name__ == "__main__":
    sys.exit(main())
