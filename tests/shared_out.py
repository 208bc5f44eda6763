"""Tiny checkpoints of every kind, and a run that is done once as a whole and once in parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import noisy_model
from tiny_audio import sounding_model

from s4gen.checkpoint import save_checkpoint
from s4gen.cli import main
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
)
from s4gen.data.text import ByteTokenizer, layout_of
from s4gen.models.build import build_model

EAGER = ("--engine", "eager")
DIGITS = tuple("0123456789")
"""The classes of fsdd-mini."""


def save_tiny(folder: Path) -> None:
    """Save the checkpoints `grey` and `classes` (images), `bytes` and `attending` (text), `spoken` and `digits`."""
    grey = noisy_model("s4d", ImageLayout(28, 28, 1), d_model=4)
    save_checkpoint(folder / "grey", grey, recipe=None, metrics={}, card="A card")
    classes = noisy_model("s4", ImageLayout(6, 5, 1, 11, classes=("a", "b", "c")))
    save_checkpoint(folder / "classes", classes, recipe=None, metrics={}, card="A card")
    tokenizer, ssm = ByteTokenizer(), SSMConfig(d_state=4)
    data = DataConfig("wikitext-mini", tokenizer="bytes")
    for name, mixer in (("bytes", "s4d"), ("attending", "attention")):
        torch.manual_seed(1)
        window = 16 if mixer == "attention" else 0
        config = ModelConfig(mixer, d_model=8, n_layers=2, d_ff=8, n_heads=2, window=window)
        recipe = Recipe(config, ssm, data, OptimConfig(), TrainConfig(steps=2))
        model = build_model(DensityConfig(layout_of(tokenizer), config, ssm))
        save_checkpoint(folder / name, model, recipe=recipe, metrics={}, card="A card", tokenizer=tokenizer)
    for name, model in (
        ("spoken", sounding_model("sashimi")),
        ("digits", sounding_model("s4d", classes=DIGITS, rate=1000)),
    ):
        save_checkpoint(folder / name, model, recipe=None, metrics={}, card="A card")


def in_parts(command: list[str], shards: int, name: str = "part") -> list[str]:
    """Run every shard of a command; return the folders of the parts, the last one first."""
    folders = [f"{name}-{i}" for i in range(shards)]
    for i, folder in enumerate(folders):
        assert main([*command, "--shard", f"{i}/{shards}", "-o", folder]) == 0
    return folders[::-1]


def contents(path: Path) -> dict[str, bytes]:
    """Return everything that a result consists of, by name; of JSON scores, without the seconds."""
    if path.suffix == ".json":
        values: dict[str, Any] = json.loads(path.read_text())
        values.pop("seconds")
        return {"": json.dumps(values).encode()}
    if path.is_file():
        beside = path.with_suffix(".png")
        return {file.suffix: file.read_bytes() for file in {path, beside} if file.exists()}
    return {file.name: file.read_bytes() for file in path.iterdir()}


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line that a command is refused with."""
    capsys.readouterr()
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("s4gen: error: ")
