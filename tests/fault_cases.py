"""Commands that are killed or refused by the disk wherever that is possible, and what has to be true afterwards."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny import noisy_model

from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.config import (
    DataConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
    load_recipe,
)
from s4gen.data.audio import AudioFormat
from s4gen.data.audio import open_split as open_audio
from s4gen.data.text import open_split as open_text
from s4gen.data.text import prepare_tokenizer
from s4gen.files.unfinished import is_leftover
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.converted import load_recurrent, save_converted
from s4gen.train import folder, run

CPU = torch.device("cpu")
DATA = {
    "images": DataConfig("mnist-mini", validation=2),
    "text": DataConfig("wikitext-mini", tokenizer="bytes"),
    "sound": DataConfig("fsdd-mini", validation=2, rate=1000),
}


def recipe(kind: str = "images", **train: Any) -> Recipe:
    settings = {"steps": 2, "batch_size": 2, "log_every": 1, "eval_every": 2, "eval_limit": 2, "save_every": 1}
    if kind == "text":
        settings["chunk"] = 8
    return Recipe(
        ModelConfig(d_model=4, n_layers=1, d_ff=0, dropout=0.1),  # with dropout the random state matters
        SSMConfig(d_state=4),
        DATA[kind],
        OptimConfig(warmup_steps=1),
        TrainConfig(**{**settings, "n_samples": 0, "precision": "fp32", **train}),
    )


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / folder.CHECKPOINT).glob("*.safetensors")}


def leftovers(root: Path) -> list[Path]:
    """Return everything below a folder that a killed writer left and the next one has to remove."""
    return [path for path in root.rglob("*") if is_leftover(path) or path.name.endswith(".previous")]


def begin_or_go_on(settings: Recipe, out: Path) -> None:
    """Do what a person does after a crash: resume, or repeat the command where there is no run to resume."""
    if folder.recipe_file(out) is not None:
        assert run(None, out, resume=True, progress=False)
    else:
        assert run(settings, out, progress=False)


@dataclasses.dataclass
class Case:
    """A command that is to be killed at every change of the disk, and what has to be true in the end."""

    act: Callable[[], Any]
    """Runs the command."""
    again: Callable[[], Any]
    """Does what a person does after a crash; it must succeed."""
    result: Callable[[], Any]
    """Returns what the command made; it must be the same after any crash."""
    prepare: Callable[[], Any] = bool
    """Makes what is there before the command."""


def run_case(kind: str, root: Path) -> Case:
    settings, out = recipe(kind), root / "run"
    return Case(lambda: run(settings, out, progress=False), lambda: begin_or_go_on(settings, out), lambda: weights(out))


def lengthened_case(root: Path) -> Case:
    out = root / "run"

    def lengthen() -> None:
        assert run(None, out, resume=True, steps=3, progress=False)

    return Case(lengthen, lengthen, lambda: weights(out), lambda: run(recipe(), out, progress=False))


def started_case(root: Path) -> Case:
    """Return the case of a run that begins from the weights of another run."""
    first, out = root.with_name("first"), root / "run"
    if not first.exists():
        run(recipe(steps=1, seed=5), first, progress=False)

    def begin() -> None:
        assert run(recipe(), out, start=first, progress=False)

    def again() -> None:
        if folder.recipe_file(out) is None:
            begin()
        else:
            assert run(None, out, resume=True, progress=False)

    return Case(begin, again, lambda: weights(out))


def replaced_case(root: Path) -> Case:
    """Return the case of a run that replaces another one, whose checkpoint must not be taken for its own."""
    out = root / "run"

    def replace() -> None:
        assert run(recipe(), out, overwrite=True, progress=False)

    def again() -> None:
        kept = folder.recipe_file(out)
        if kept is not None and load_recipe(kept) == recipe():
            assert run(None, out, resume=True, progress=False)
        else:
            replace()

    return Case(replace, again, lambda: weights(out), lambda: run(recipe(seed=1), out, progress=False))


def convert_case(root: Path) -> Case:
    source, out = root.with_name("source"), root / "converted"
    if not source.exists():
        run(recipe(), source, progress=False)
    checkpoint = load_checkpoint(source / "checkpoint")
    recurrent = convert(checkpoint.model)
    certificate = certify(recurrent, torch.zeros(1, 784, dtype=torch.int64))

    def act() -> None:
        save_converted(checkpoint.path, out, recurrent, certificate, overwrite=out.exists())

    def result() -> dict[str, bytes]:
        load_recurrent(out)
        return {file.name: file.read_bytes() for file in out.iterdir()}

    return Case(act, act, result, act)


def tokens_case(root: Path) -> Case:
    def act() -> bytes:
        tokenizer = prepare_tokenizer("wikitext-mini", "word", 900, progress=False)
        return open_text("wikitext-mini", "test", tokenizer, progress=False).tokens.tobytes()

    return Case(act, act, act)


def audio_case(root: Path) -> Case:
    def act() -> tuple[bytes, bytes]:
        audio = open_audio("fsdd-mini", "test", AudioFormat(1000))
        return audio.codes.tobytes(), audio.lengths.tobytes()

    return Case(act, act, act)


def samples_case(root: Path) -> Case:
    """Return the case of a part of samples, which goes on behind its last block, and of the result of merging it."""
    model, part, out = root.with_name("model"), root / "part", root / "images"
    if not model.exists():
        layout = ImageLayout(height=3, width=2, channels=1, levels=5)
        save_checkpoint(model, noisy_model("s4d", layout), recipe=None, metrics={}, card="A card")

    def act() -> None:
        draw = ["sample", str(model), "-n", "4", "--batch", "1", "--engine", "eager", "--shard", "0/1"]
        assert main([*draw, "-o", str(part)]) == 0
        assert main(["merge", str(out), str(part), "--force"]) == 0

    return Case(act, act, lambda: {file.name: file.read_bytes() for file in out.iterdir()})


CASES: dict[str, Callable[[Path], Case]] = {
    "run of images": functools.partial(run_case, "images"),
    "run of text": functools.partial(run_case, "text"),
    "run of sound": functools.partial(run_case, "sound"),
    "lengthened run": lengthened_case,
    "run from other weights": started_case,
    "run in the place of another": replaced_case,
    "convert": convert_case,
    "tokens": tokens_case,
    "audio cache": audio_case,
    "samples in parts": samples_case,
}
