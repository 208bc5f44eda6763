"""Show the whole idea in a few minutes: train, convert, sample and measure, on images that come with s4gen.

Everything goes through the same functions as the commands. The report is written again after each part, so that an
interrupted demo leaves a report of what it has shown so far.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from s4gen import train
from s4gen.bench import generation
from s4gen.bench import plots as bench_plots
from s4gen.bench.instruments import machine
from s4gen.bench.result import HEADER, POSITION_NOTE, cells, position_cells
from s4gen.checkpoint import Checkpoint, load_checkpoint
from s4gen.config import DensityConfig, ImageLayout, Recipe, load_recipe
from s4gen.data import open_split
from s4gen.data.images import save_grid, to_sequence
from s4gen.errors import UserError
from s4gen.evaluate.images import ImageEvaluation, evaluate_images
from s4gen.evaluate.scorers import by_convolution, by_recurrence
from s4gen.files.shipped import shipped_names
from s4gen.machine.device import best_device
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.reporting.page import SAMPLE_BYTES, curves_of
from s4gen.reporting.records import read_record
from s4gen.reporting.samples import samples_by_step
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.converted import load_recurrent
from s4gen.sampling.engines import make_engine
from s4gen.sampling.generate import generate
from s4gen.showing.report import Picture, Section, Table, Text, is_report, write_report
from s4gen.showing.words import plural, with_error
from s4gen.train.opening import open_task
from s4gen.train.steps_in_time import seconds_per_step

REPORT, TITLE = "report.html", "s4gen demo"
"""The file that tells of the demo, and its title, by which an earlier demo is known."""
SHIPPED = "mnist-small"
"""The shipped checkpoint that the demo samples from, too."""
_TEST_IMAGES = 100
"""Number of test images that are scored before and after training, by convolution and by recurrence."""
_TEST_BATCH = 20
"""Number of test images that are scored at a time by convolution."""
_CERTIFIED = 4
"""Number of test images on which both forms are compared token by token."""
_SAMPLES = 36
_COMPLETED, _COMPLETIONS = 6, 4
"""Number of images that are completed, and of completions for each."""


@dataclass
class Demo:
    """The state that the parts of the demo share: where it writes, when it began, and the report so far."""

    out: Path
    device: torch.device
    started: float = field(default_factory=time.perf_counter)
    sections: list[Section] = field(default_factory=list)
    written: bool = False
    """Whether there is a report of this demo on the disk."""

    def say(self, text: str) -> None:
        """Print one line of commentary, with the minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.perf_counter() - self.started), 60)
        print(f"[{minutes}:{seconds:02d}] {text}", flush=True)

    def add(self, section: Section) -> None:
        """Add a section to the report and write the report to disk."""
        self.sections.append(section)
        write_report(self.out / REPORT, TITLE, self.sections)
        self.written = True

    def grid(self, name: str, images: Tensor, layout: ImageLayout, caption: str) -> Picture:
        """Save a grid of images as a PNG beside the report, and return it as a picture for the report."""
        path = self.out / f"{name}.png"
        save_grid(images, layout, path)
        self.say(f"  {path}")
        return Picture(path.read_bytes(), caption, pixels=True)


def run(
    out: Path,
    *,
    train_seconds: float = 100.0,
    bench_seconds: float = 1.0,
    overrides: Sequence[str] = (),
) -> None:
    """Run the demo and write `report.html` and the files it shows to `out`; an earlier demo there is replaced.

    Args:
        out: the folder, which is made if it is missing.
        train_seconds: time for training; the recipe's steps are cut to what this machine does in it.
        bench_seconds: time for measuring each workload of the benchmark.
        overrides: changes to the recipe, each "section.key=value".

    Raises:
        UserError: the folder holds something else than an earlier demo, or cannot be written to.
    """
    check_folder(out)
    demo = Demo(out, best_device())
    report, finished = out / REPORT, False
    try:
        recipe = load_recipe("demo", overrides)
        test = to_sequence(open_split(recipe.data.dataset, "test").images[:_TEST_IMAGES])
        _introduce(demo)
        checkpoint = _train(demo, recipe, test, train_seconds)
        recurrent = _convert(demo, checkpoint, test)
        _sample(demo, recurrent, test, "demo", "the model trained just now")
        _sample_shipped(demo, test)
        _measure(demo, checkpoint, bench_seconds)
        finished = True
    finally:
        if demo.written:
            demo.say(f"done: {report}" if finished else f"stopped; the report so far: {report}")


def check_folder(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier demo, because a run in it would be overwritten.

    Raises:
        UserError: it does, or it is no folder.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file, and the demo needs a folder: choose another --out")
    if any(out.iterdir()) and not is_report(out / REPORT, TITLE):
        raise UserError(f"{out} holds files that are of no earlier demo: choose another --out, or empty it")


def _introduce(demo: Demo) -> None:
    """Say what the demo is and which machine it runs on."""
    here = machine(demo.device)
    where = f"{here['cpu']}, {plural(int(here['threads']), 'thread')}, device {here['device']}, torch {here['torch']}"
    demo.say(f"s4gen demo on {where}")
    text = (
        "An autoregressive density model made of state space layers: it trains by convolution, in parallel over "
        "whole images, and samples by recurrence, in constant time and memory per token. Everything here was "
        f"computed on this machine by the command s4gen demo: {where}."
    )
    demo.add(Section("What this is", [Text(text)]))


def _train(demo: Demo, recipe: Recipe, test: Tensor, train_seconds: float) -> Checkpoint:
    """Part 1: train a model from random weights."""
    images = open_split(recipe.data.dataset, "train")
    recipe = affordable(recipe, train_seconds, demo.device)
    steps, batch_size = recipe.train.steps, recipe.train.batch_size
    # The seed of the training: this is the very model that it begins with, so "before" and "after" are comparable.
    torch.manual_seed(recipe.train.seed)
    untrained = build_model(DensityConfig(images.layout, recipe.model, recipe.ssm)).eval().to(demo.device)
    count = sum(parameter.numel() for parameter in untrained.parameters())
    made = f"{recipe.model.n_layers} {recipe.model.mixer} layers, d_model {recipe.model.d_model}, {count:,} parameters"
    demo.say(f"training by convolution: {made}; {steps} steps of {batch_size} of {len(images):,} images")
    before = _score(untrained, test)
    demo.say(f"  before: {_bits(before)} on {len(test)} test images")
    folder = demo.out / "train"
    shutil.rmtree(folder / "samples", ignore_errors=True)  # an earlier demo may have sampled at other steps
    finished = train.run(recipe, folder, overwrite=True, sampler=_sampler, progress=sys.stderr.isatty())
    checkpoint = load_checkpoint(folder / "checkpoint")
    after = _score(checkpoint.model.to(demo.device), test)
    steps, seconds = checkpoint.metrics["step"], checkpoint.metrics["train_seconds"]
    demo.say(f"  after {plural(steps, 'step')}, {seconds:.0f} s: {_bits(after)}")
    rows = [["before training", _bits(before)], [f"after {plural(steps, 'step')}, {seconds:.0f} s", _bits(after)]]
    record = read_record(folder)
    demo.add(
        Section(
            "Training, by convolution",
            [
                Text(f"{made}; {steps} steps of {batch_size} images out of {len(images):,} ({images.name})."),
                Table(["on test images it has not seen", "bits/dim"], rows),
                *curves_of([record]),
                *samples_by_step(record, SAMPLE_BYTES),
            ],
        )
    )
    if not finished:
        raise KeyboardInterrupt  # training saves and returns on Ctrl-C, but the user meant the whole demo
    return checkpoint


def _convert(demo: Demo, checkpoint: Checkpoint, test: Tensor) -> RecurrentModel:
    """Part 2: convert the model to its recurrent form and certify that both agree."""
    demo.say("converting to the recurrent form")
    recurrent = convert(checkpoint.model).to(demo.device)
    certificate = certify(recurrent, test[:_CERTIFIED])
    convolution, recurrence = _score(recurrent.source, test), _score(recurrent, test)
    rows = [
        ["bits/dim by convolution", _bits(convolution)],
        ["bits/dim by recurrence", _bits(recurrence)],
        ["images scored", f"{recurrence.n_sequences}"],
        ["difference", f"{abs(convolution.bits_per_dim - recurrence.bits_per_dim):.1e} bits/dim"],
        ["largest difference of one token", f"{certificate.max_abs_logprob_difference:.1e} nats"],
        ["allowed", f"{certificate.tolerance:g} nats"],
    ]
    for name, value in rows:
        demo.say(f"  {name}: {value}")
    text = (
        "Conversion discretises every layer once. The certificate compares the two forms on real images and shows that "
        "they are one model."
    )
    demo.add(Section("Converting, with a certificate", [Text(text), Table(["certificate", ""], rows)]))
    return recurrent


def _sample(demo: Demo, recurrent: RecurrentModel, test: Tensor, name: str, whose: str) -> None:
    """Part 3: draw new images, and the lower halves of given ones."""
    layout = recurrent.config.layout
    assert isinstance(layout, ImageLayout)
    demo.say(f"sampling from {whose}")
    engine = make_engine("auto", recurrent, tokens=_SAMPLES * layout.length)
    began = time.perf_counter()
    drawn = generate(recurrent, _SAMPLES, seed=0, engine=engine)
    seconds = time.perf_counter() - began
    speed = f"{_SAMPLES * layout.length / seconds:,.0f} tokens/s, {_SAMPLES / seconds:.1f} images/s"
    demo.say(f"  {_SAMPLES} images in {seconds:.1f} s: {speed}")
    known = layout.length // layout.height * (layout.height // 2)
    given = test[:_COMPLETED]
    prompt = given[:, :known].repeat_interleave(_COMPLETIONS, dim=0)
    completed = generate(recurrent, len(prompt), seed=0, prompt=prompt, engine=engine).view(
        _COMPLETED, _COMPLETIONS, -1
    )
    upper = given.clone()
    upper[:, known:] = 0
    columns = torch.cat([given[:, None], upper[:, None], completed], dim=1).flatten(0, 1)
    samples = demo.grid(f"{name}-samples", drawn, layout, f"{_SAMPLES} samples ({speed})")
    caption = "Test image, the part that the model is given, and four completions; each row is one image"
    completions = demo.grid(f"{name}-completions", columns, layout, caption)
    demo.add(Section(f"Samples of {whose}", [samples, completions]))


def _sample_shipped(demo: Demo, test: Tensor) -> None:
    """Part 4: sample from the checkpoint that comes with s4gen, which was trained for longer."""
    if SHIPPED not in shipped_names("checkpoints"):
        demo.say(f"no shipped checkpoint {SHIPPED} here: going on without its samples")
        return
    recurrent = load_recurrent(SHIPPED).to(demo.device)
    demo.say(f"the shipped checkpoint {SHIPPED}: {_bits(_score(recurrent.source, test))} on the same test images")
    _sample(demo, recurrent, test, "shipped", f"the shipped checkpoint {SHIPPED}")


def _measure(demo: Demo, checkpoint: Checkpoint, bench_seconds: float) -> None:
    """Part 5: measure the speed of sampling, beside that of the convolution and of a Transformer."""
    demo.say("measuring speed (s4gen bench measures longer, and also model and Transformer under torch.compile)")
    result = generation.run(
        "demo",
        checkpoint.config,
        checkpoint=checkpoint.path,
        batches=(1, 16),
        engines=("eager", "native"),
        device=demo.device,
        budget=bench_seconds,
        positions=(100, 1_000, 10_000),
        compiled_transformer=False,
    )
    print(result.table(), flush=True)
    blocks: list[Text | Table | Picture] = []
    for batch in result.batches:
        rows = [row for row in result.rows if row.batch == batch]
        speeds = {result.title(row): result.tokens_per_second(row) for row in rows if row.ms_per_step > 0}
        ours = [result.title(row) for row in rows if row.way in result.engines]
        blocks.append(Table([f"batch {batch}", *HEADER[1:]], cells(result, batch)))
        blocks.append(Picture(bench_plots.speed_bars(speeds, ours), f"Tokens per second at batch {batch}"))
    header, *body = position_cells(result)
    blocks += [
        Table(header, body, POSITION_NOTE),
        Picture(
            bench_plots.plot(result),
            "Milliseconds per token against position, which is flat for the recurrent form; tokens per second against "
            "batch",
        ),
    ]
    demo.add(Section("Speed", blocks))


def affordable(recipe: Recipe, seconds: float, device: torch.device) -> Recipe:
    """Return the recipe with its steps cut to what this machine does in `seconds`; it evaluates four times.

    The speed is measured for two seconds; there are at least four steps, and never more than the recipe has.
    """
    per_step = seconds_per_step(recipe, open_task(recipe, device, progress=False), device, budget=2.0)
    steps = max(4, min(recipe.train.steps, int(seconds / per_step)))
    quarter = math.ceil(steps / 4)
    changed = replace(recipe.train, steps=steps, eval_every=quarter, save_every=quarter)
    return replace(recipe, train=changed)


def _sampler(model: DensityModel, n: int, seed: int) -> Tensor:
    """Draw the images that training shows at each evaluation."""
    return generate(convert(model), n, seed=seed)


def _score(model: DensityModel | RecurrentModel, test: Tensor) -> ImageEvaluation:
    """Measure bits/dim: of a RecurrentModel by recurrence, of a DensityModel by convolution."""
    if isinstance(model, RecurrentModel):
        score = by_recurrence(model, make_engine("eager", model))
        return evaluate_images(score, test, model.bos, len(test), "recurrent")
    return evaluate_images(by_convolution(model), test, model.bos, _TEST_BATCH, "conv")


def _bits(evaluation: ImageEvaluation) -> str:
    return f"{with_error(evaluation.bits_per_dim, evaluation.stderr)} bits/dim"
