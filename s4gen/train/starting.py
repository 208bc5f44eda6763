"""Begin a run from the weights of a checkpoint, or give a run that is resumed another number of steps."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.checkpoint import AnyCheckpoint, load_any
from s4gen.config import (
    DensityConfig,
    InputLayout,
    PredictorConfig,
    Recipe,
    TextLayout,
    is_text,
    load_recipe,
    recipe_to_toml,
)
from s4gen.config.names import PLURAL
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.files.atomic import current, write_file_atomic
from s4gen.train.folder import CHECKPOINT, RECIPE
from s4gen.train.optim import schedule
from s4gen.train.training_run import TrainingRun

_NAMED = 4
"""How many tensors a message names; it counts the others."""
LEAST = 0.1
"""The share of the numbers in a checkpoint's blocks that must fit. It is not 0, because a few biases always fit."""
_SHAPELESS = ("init", "dt_min", "dt_max")
"""The settings of state space layers that decide only their initial values, which a checkpoint replaces."""


def tokenizer_of(checkpoint: AnyCheckpoint, recipe: Recipe) -> Tokenizer | None:
    """Return the checkpoint's tokeniser for a density model that begins from it; None if one of them is not of text.

    The data of a predictor make their own tokeniser, which `check_start` compares.

    Raises:
        UserError: the recipe asks for another kind of tokeniser, or for another number of tokens.
    """
    is_density = recipe.task.kind == "density"
    if not is_density or not isinstance(checkpoint.config.layout, TextLayout) or not is_text(recipe.data.dataset):
        return None  # if only one of the two is text, `check_start` refuses it later
    known, data = checkpoint.tokenizer(), recipe.data
    if known.kind != data.tokenizer or data.vocab_size not in (0, known.vocab):
        size = f" data.vocab_size={known.vocab}" if known.kind == "bpe" else ""
        raise UserError(
            f"--start {checkpoint.path} has the tokeniser {known.kind} of {known.vocab:,} tokens, and the recipe asks "
            f"for {data.tokenizer}{f' with {data.vocab_size:,}' if data.vocab_size else ''}: set "
            f"data.tokenizer={known.kind}{size}"
        )
    print(f"s4gen: tokeniser of {checkpoint.path}: {known.kind}, {known.vocab:,} tokens", file=sys.stderr)
    return known


def open_start(path: str | Path) -> AnyCheckpoint:
    """Load the checkpoint to begin from; the folder of a run stands for the checkpoint in it.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    inside = Path(path) / CHECKPOINT
    return load_any(path if current(inside) is None else inside)


def check_start(checkpoint: AnyCheckpoint, layout: InputLayout, tokenizer: Tokenizer | None) -> None:
    """Refuse to begin from a model of other data; if only sizes and the like differ, print what does.

    Raises:
        UserError: the checkpoint's model is of another kind (image, text, audio, series) than the data, or of text with
            another tokeniser.
    """
    before = checkpoint.config.layout
    if before.kind != layout.kind:
        raise UserError(
            f"--start {checkpoint.path} is a model of {PLURAL[before.kind]}, and the recipe is for "
            f"{PLURAL[layout.kind]}: choose a checkpoint of the same kind"
        )
    if tokenizer is not None and checkpoint.tokenizer().fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--start {checkpoint.path} has another tokeniser than the recipe's data, so its tokens mean something "
            "else: train both with data.tokenizer=bytes, or with the same texts"
        )
    if differences := _differences(before, layout):
        print(f"s4gen: --start: the sequences differ: {'; '.join(differences)}", file=sys.stderr)


def take_weights(training: TrainingRun, checkpoint: AnyCheckpoint) -> None:
    """Copy the checkpoint's tensors into a new run where name and shape are the same, and print what was not taken.

    The running mean starts from them, too. A table of classes is taken only if the classes are the same, and a head
    only if its outputs mean the same. A model that reads in both directions takes the layers of one that does not for
    its first direction.

    Raises:
        UserError: less than `LEAST` of the checkpoint's blocks fits.
    """
    found, wanted = _named_as(checkpoint.model, training.model), training.model.state_dict()
    same_answers = _answers(checkpoint.config) == _answers(training.model.config)
    same_classes = _classes(checkpoint.config.layout) == _classes(training.model.config.layout)
    fits = {
        name: tensor
        for name, tensor in found.items()
        if name in wanted
        and tensor.shape == wanted[name].shape
        and (same_classes or not name.endswith(".label.weight"))
        and (same_answers or not name.startswith("head."))
    }
    if _size_of_blocks(fits) < LEAST * _size_of_blocks(found):
        settings = _differences(checkpoint.config.model, training.recipe.model)
        raise UserError(
            f"--start {checkpoint.path}: next to nothing of its blocks fits the recipe's model"
            f"{': ' + '; '.join(settings) if settings else ''}; take the same [model] and [ssm]"
        )
    with torch.no_grad():
        for name, tensor in fits.items():
            wanted[name].copy_(tensor)
    for name, parameter in training.model.named_parameters():
        training.mean[name].copy_(parameter.detach())
    for line in _report(checkpoint, training, set(fits), set(found), set(wanted)):
        print(f"s4gen: {line}", file=sys.stderr)


def _named_as(before: nn.Module, now: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `before` by the names that they have in `now`."""
    wanted, renamed = now.state_dict(), {}
    for name, tensor in before.state_dict().items():
        forward = name.replace(".mixer.", ".mixer.forward_layer.", 1)
        renamed[forward if name not in wanted and forward in wanted else name] = tensor
    return renamed


def _answers(config: DensityConfig | PredictorConfig) -> Any:
    """Return what the outputs of a head mean; None for a density model, whose head gives the tokens of the layout."""
    return (config.task.kind, config.task.horizon, config.answers) if isinstance(config, PredictorConfig) else None


def _size_of_blocks(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("blocks."))


def _report(
    checkpoint: AnyCheckpoint, training: TrainingRun, taken: set[str], there: set[str], needed: set[str]
) -> list[str]:
    """Return lines on what was taken, what was not, and which settings change the meaning of what was taken."""
    lines = [f"--start {checkpoint.path}: {len(taken)} of the model's {len(needed)} tensors taken"]
    if new := sorted(needed - taken):
        lines.append(
            f"--start: initialised anew, because the checkpoint has no tensor of this name and shape: {_named(new)}"
        )
    if unused := sorted(there - needed):
        lines.append(f"--start: not taken, because the model has no tensor of this name: {_named(unused)}")
    before, now = checkpoint.config, training.model.config
    changed = [text for text in _differences(before.ssm, now.ssm) if text.split()[0] not in _SHAPELESS]
    if changed:
        lines.append(f"--start: settings changed that give these weights another meaning: {'; '.join(changed)}")
    return lines


def _named(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _classes(layout: InputLayout) -> tuple[str, ...]:
    return getattr(layout, "classes", ())


def _differences(before: Any, now: Any) -> list[str]:
    """Return the fields in which two dataclasses of one type differ, as "d_model was 96, is 128"."""
    tables = [dataclasses.asdict(table) for table in (before, now)]
    return [
        f"{key} was {value!r}, is {tables[1][key]!r}"
        for key, value in tables[0].items()
        if key in tables[1] and value != tables[1][key]
    ]


def lengthen(training: TrainingRun, out: Path, steps: int | None) -> None:
    """Give a resumed run another number of steps: `steps`, or that of recipe.toml in its folder; print what changes.

    The number is written to recipe.toml at once, so that it still holds if this process is killed.

    Raises:
        UserError: the run has already taken as many steps.
    """
    recipe = training.recipe
    before = recipe.train.steps
    saved = out / RECIPE
    wanted = steps or (load_recipe(saved).train.steps if saved.is_file() else before)
    if wanted == before:
        return
    if wanted <= training.step:
        raise UserError(f"train.steps = {wanted}: the run in {out} has already taken {training.step}; ask for more")
    training.recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=wanted))
    write_file_atomic(saved, recipe_to_toml(training.recipe).encode())
    rates = [schedule(training.step, n, recipe.optim.warmup_steps) for n in (before, wanted)]
    was = 0.0 if training.step >= before else rates[0]
    print(
        f"s4gen: {wanted:,} steps instead of {before:,}: the learning rate follows the cosine of the new length, so at "
        f"step {training.step:,} it goes from {was:.0%} of its peak to {rates[1]:.0%}, and to zero at step {wanted:,}",
        file=sys.stderr,
    )


def recipe_again(out: Path, steps: int | None) -> Recipe:
    """Return the recipe of a run that ended before its first checkpoint, with another number of `steps` if given.

    Raises:
        UserError: there is no run in the folder.
    """
    if not (out / RECIPE).is_file():
        raise UserError(f"cannot resume {out}: there is no {'training run in it' if out.is_dir() else 'such folder'}")
    recipe = load_recipe(out / RECIPE)
    if steps is not None:
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=steps))
    print(f"s4gen: the run in {out} had not saved a checkpoint, so it begins again at step 0", file=sys.stderr)
    return recipe
