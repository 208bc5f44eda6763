"""A checkpoint as a whole: saving it, finding and loading it, its tokeniser, and what it may not replace."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s4gen.checkpoint.files import (
    CURVE_FILE,
    EXACT,
    TOKENIZER_FILE,
    config_in,
    config_tables,
    load_tensors,
    model_digest,
    read_bytes,
    read_json,
    save_tensors,
)
from s4gen.checkpoint.fitting import check_fit, fitting
from s4gen.checkpoint.tensors import Header, check_finite
from s4gen.config import (
    DensityConfig,
    PredictorConfig,
    Recipe,
    TextLayout,
    load_recipe,
    recipe_to_toml,
)
from s4gen.config.names import PLURAL
from s4gen.data.text import Tokenizer, from_json
from s4gen.errors import UserError
from s4gen.files.atomic import current, read_consistent, write_atomic
from s4gen.files.expected import shown
from s4gen.files.folders import user_path
from s4gen.files.shipped import find
from s4gen.models.build import AnyConfig, AnyModel, M, TooLargeError, build_model, shapes_alone, with_weights
from s4gen.models.density import DensityModel
from s4gen.models.predictor import Predictor


@dataclass(frozen=True)
class AnyCheckpoint:
    """A checkpoint as read from disk, of a density model or of a predictor."""

    path: Path
    """Its directory."""
    config: Any
    """The configuration of the model."""
    model: Any
    """The model, on the CPU and in evaluation mode."""
    recipe: Recipe | None
    """The recipe that trained it, where one did."""
    metrics: dict[str, Any]
    """The measures at the time when it was saved, by name."""

    def tokenizer(self) -> Tokenizer:
        """Load the tokeniser of a language model.

        Raises:
            UserError: the model is of something else; the tokeniser is missing, damaged, or not the model's.
        """
        return load_tokenizer(self.path, self.config)

    def digest(self) -> str:
        """Return a SHA-256 over those of its files that results depend on; a copy of the checkpoint has the same."""
        return model_digest(current(self.path) or self.path)


@dataclass(frozen=True)
class Checkpoint(AnyCheckpoint):
    """The checkpoint of a density model."""

    config: DensityConfig
    model: DensityModel


@dataclass(frozen=True)
class PredictorCheckpoint(AnyCheckpoint):
    """The checkpoint of a predictor."""

    config: PredictorConfig
    model: Predictor


def save_checkpoint(
    path: str | Path,
    model: AnyModel,
    *,
    recipe: Recipe | None,
    metrics: Mapping[str, Any],
    card: str,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
) -> None:
    """Write the whole checkpoint, or nothing: a failure leaves what was there before.

    Raises:
        UserError: `path` exists (and `overwrite` is not set, or it is not a checkpoint), or cannot be written.
    """
    check_target(path, overwrite)

    def fill(folder: Path) -> None:
        fill_checkpoint(folder, model, recipe=recipe, metrics=metrics, card=card, tokenizer=tokenizer)

    write_atomic(path, fill)


def fill_checkpoint(
    folder: Path,
    model: AnyModel,
    *,
    recipe: Recipe | None,
    metrics: Mapping[str, Any],
    card: str,
    tokenizer: Tokenizer | None = None,
    curve: bytes | None = None,
) -> None:
    """Write the files of a checkpoint into an existing folder, for use inside `write_atomic`.

    `curve` is a PNG of how the loss went down.
    """
    config = config_tables(model.config)
    if exact := _exact(model):
        config[EXACT] = exact
    save_tensors(folder / "model.safetensors", model.state_dict())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    if recipe is not None:
        (folder / "recipe.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    if tokenizer is not None:
        (folder / TOKENIZER_FILE).write_text(tokenizer.to_json() + "\n", encoding="utf-8")
    if curve is not None:
        (folder / CURVE_FILE).write_bytes(curve)


def _exact(model: AnyModel) -> list[str]:
    """Name the parameters that a model keeps in float64 while it works in float32, as an imported one may."""
    if model.dtype != torch.float32:
        return []
    return [name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float64]


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Load the density model of this path or shipped name. The global random state is left as it was.

    Raises:
        UserError: there is none, it is a predictor's, it is damaged, or it is of another format version.
    """
    found = load_any(name_or_path)
    if not isinstance(found, Checkpoint):
        raise UserError(
            f"{found.path} is trained to {found.config.task.kind}, and is no density model; choose another checkpoint "
            "(train, eval, info and predict take this one)"
        )
    return found


def load_predictor(name_or_path: str | Path) -> PredictorCheckpoint:
    """Load the predictor of this path or shipped name. The global random state is left as it was.

    Raises:
        UserError: there is none, it is a density model's, it is damaged, or it is of another format version.
    """
    found = load_any(name_or_path)
    if not isinstance(found, PredictorCheckpoint):
        raise UserError(
            f"{found.path} is a density model of {PLURAL[found.config.layout.kind]}, and predicts nothing; "
            'choose the checkpoint of a recipe with [task] kind = "classify", "regress" or "forecast"'
        )
    return found


def load_any(name_or_path: str | Path) -> Checkpoint | PredictorCheckpoint:
    """Load the checkpoint of this path or shipped name, whatever its model is for.

    Raises:
        UserError: there is none, it is damaged, or it is of another format version.
    """
    path = resolve_checkpoint(name_or_path)
    config, model, recipe, metrics = read_consistent(path, _read)
    kind: Any = PredictorCheckpoint if isinstance(config, PredictorConfig) else Checkpoint
    found: Checkpoint | PredictorCheckpoint = kind(path, config, model, recipe, metrics)
    return found


def load_tokenizer(path: Path, config: AnyConfig) -> Tokenizer:
    """Load the tokeniser in the directory of a checkpoint with this configuration.

    Raises:
        UserError: the model is of something else; the tokeniser is missing, damaged, or not the model's.
    """
    if not isinstance(config.layout, TextLayout):
        raise UserError(f"{path} is a model of {config.layout.kind}s, which has no tokeniser; expected one of text")
    file = (current(path) or path) / TOKENIZER_FILE
    tokenizer = from_json(read_bytes(file), str(file))
    layout = config.layout
    if (tokenizer.vocab, tokenizer.eos) != (layout.vocab, layout.start):
        raise UserError(
            f"{file} is of another vocabulary than the model: {tokenizer.vocab} tokens, <eos> being {tokenizer.eos}, "
            f"where the model has {layout.vocab} and {layout.start}; copy the checkpoint again, with its own"
        )
    return tokenizer


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """Return the directory of a checkpoint given by path or shipped name.

    Raises:
        UserError: there is nothing of that name, or it is not a checkpoint.
    """
    if not str(name_or_path):
        raise UserError("the name of the checkpoint is empty: give a folder, or the name of a shipped checkpoint")
    path = user_path(name_or_path)
    directory = current(path)
    if directory is None:
        directory = path = find("checkpoints", name_or_path)
    if not (directory / "config.json").is_file():
        inside = sorted(str(file.parent) for depth in ("*", "*/*") for file in directory.glob(f"{depth}/config.json"))
        hint = f"; did you mean {inside[-1]}?" if inside else ""
        raise UserError(f"{name_or_path} is not a checkpoint: there is no config.json in it{hint}")
    return path


def check_target(path: str | Path, overwrite: bool) -> None:
    """Refuse to write a checkpoint over something that is to be kept. Call it before any work.

    Raises:
        UserError: `path` exists and `overwrite` is not set, or it is neither a checkpoint nor an empty
        folder.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{path} exists; choose another name, or replace it with --force")
    if not (path / "config.json").is_file():
        raise UserError(f"{path} exists and is not a checkpoint, so it is not replaced; choose another name")


def _read(folder: Path) -> tuple[AnyConfig, AnyModel, Recipe | None, dict[str, Any]]:
    config, exact = _read_config(folder / "config.json")
    model = load_model(folder / "model.safetensors", lambda: build_model(config), exact)
    recipe = load_recipe(folder / "recipe.toml") if (folder / "recipe.toml").exists() else None
    metrics = read_json(folder / "metrics.json", finite=False) if (folder / "metrics.json").exists() else {}
    return config, model, recipe, metrics


def load_model(path: Path, build: Callable[[], M], exact: Collection[str] = ()) -> M:
    """Build a model and give it the weights in a file, in evaluation mode, on the CPU.

    The model is built as shapes alone, and no further than the file has numbers, so a configuration that a stranger has
    written costs no more than the file that comes with it.

    Args:
        path: the file.
        build: makes the model, which has the names and shapes of the file.
        exact: names of tensors that keep the precision in which they are stored.

    Raises:
        UserError: the file is missing, damaged or does not fit, or holds numbers that are not finite.
    """
    shapes: M | None = None

    def check(header: Header) -> None:
        nonlocal shapes
        try:
            # Some layers make parameters only to replace them, or constants that are not saved; and of a file that
            # lacks a little, the message is to name what is missing. Hence the factors.
            with shapes_alone(4 * header.numbers + 100_000, 2 * len(header.tensors) + 100):
                shapes = build()
        except TooLargeError:
            raise UserError(
                f"{path} does not fit config.json: it holds {len(header.tensors):,} tensors with {header.numbers:,} "
                "numbers, and the model in config.json has many more"
            ) from None
        check_fit(header.tensors, shapes.state_dict(), path, exact)

    found = load_tensors(path, check)
    assert shapes is not None  # `check` was called, or there would have been an exception
    tensors = fitting(found, shapes.state_dict(), path, exact)
    check_finite(tensors, path)
    return with_weights(shapes, tensors)


def _read_config(path: Path) -> tuple[AnyConfig, tuple[str, ...]]:
    """Return the configuration of the model, and the names of the tensors that are kept in float64."""
    tables = read_json(path)
    config, exact = config_in(tables, path), tables.get(EXACT, [])
    if not isinstance(exact, list) or not all(isinstance(name, str) for name in exact):
        raise UserError(f"{path}: {EXACT} = {shown(exact)}: expected names of tensors; the file is damaged")
    return config, tuple(exact)
