"""The files of a checkpoint: their formats, tensors as safetensors, and JSON, with one sentence for each damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

import s4gen
from s4gen.config import DensityConfig, density_config_from_dict
from s4gen.errors import UserError

FORMAT = "s4gen-checkpoint"
CLASSIFIER_FORMAT = "s4gen-classifier"
"""The format of a classifier of recordings (s4gen.evaluate.recognition), which stands beside density models."""
EXACT = "float64"
"""The key of config.json that names the tensors kept in float64 beside a model in float32."""
LAYER_FORMAT = "s4gen-layer"
"""The format of a single layer that `s4gen.layers` saved."""
FORMAT_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"
CURVE_FILE = "curve.png"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, exactly. A full disk is an OSError, as for every other file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(safetensors.torch.save(plain))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        UserError: the file is missing, truncated or not safetensors.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(read_bytes(path))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy or save the checkpoint again") from None
    return tensors


def config_in(tables: Mapping[str, Any], what: str, section: str, path: Path) -> DensityConfig:
    """Return the model's configuration in the config.json, at `path`, of a checkpoint of one kind or another.

    Raises:
        UserError: it is of another format version, or damaged.
    """
    version = tables.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: {what} format version {version!r}, but s4gen {s4gen.__version__} reads version "
            f"{FORMAT_VERSION}; use the s4gen that wrote it ({tables.get('s4gen_version', 'unknown')})"
        )
    if not isinstance(tables.get(section), dict):
        raise UserError(f"{path}: {section} is missing; the file is damaged")
    return density_config_from_dict(tables[section], source=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    try:
        value = json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy or save the checkpoint again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return value


def read_bytes(path: Path) -> bytes:
    """Return the content of a checkpoint's file.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing, so {path.parent} is not a complete checkpoint") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
