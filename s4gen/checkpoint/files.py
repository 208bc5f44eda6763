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
from s4gen.config import (
    DensityConfig,
    PredictorConfig,
    density_config_from_dict,
    density_config_to_dict,
    predictor_config_from_dict,
    predictor_config_to_dict,
)
from s4gen.errors import UserError

FORMAT = "s4gen-checkpoint"
PREDICTOR_FORMAT = "s4gen-predictor"
"""The format of a predictor, whose files are otherwise those of a density model."""
EXACT = "float64"
"""The key of config.json that names the tensors kept in float64 beside a model in float32."""
LAYER_FORMAT = "s4gen-layer"
"""The format of a single layer that `s4gen.layers` saved."""
FORMAT_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"
CURVE_FILE = "curve.png"
SECTIONS: dict[str, tuple[str, Any, Any]] = {
    FORMAT: ("density", density_config_from_dict, density_config_to_dict),
    PREDICTOR_FORMAT: ("predictor", predictor_config_from_dict, predictor_config_to_dict),
}
"""For each format the section of config.json that holds the configuration, and how it is read and written."""


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


def config_in(tables: Mapping[str, Any], path: Path) -> DensityConfig | PredictorConfig:
    """Return the model's configuration from the content of the config.json at `path`.

    Raises:
        UserError: it is no model's, of another format version, or damaged.
    """
    if tables.get("format") == LAYER_FORMAT:
        raise UserError(f"{path.parent} is a single layer, not a density model; s4gen.layers.load_layer reads it")
    if tables.get("format") == "s4gen-classifier":
        raise UserError(f"{path.parent} is a classifier of an earlier version of s4gen; train it again")
    if tables.get("format") not in SECTIONS:
        raise UserError(
            f'{path}: format = {tables.get("format")!r}: expected "{FORMAT}"; this is another program\'s file'
        )
    section, from_dict, _ = SECTIONS[tables["format"]]
    version = tables.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: checkpoint format version {version!r}, but s4gen {s4gen.__version__} reads version "
            f"{FORMAT_VERSION}; use the s4gen that wrote it ({tables.get('s4gen_version', 'unknown')})"
        )
    if not isinstance(tables.get(section), dict):
        raise UserError(f"{path}: {section} is missing; the file is damaged")
    return from_dict(tables[section], source=str(path))


def config_tables(config: DensityConfig | PredictorConfig) -> dict[str, Any]:
    """Return the content of config.json for a model of this configuration."""
    format = PREDICTOR_FORMAT if isinstance(config, PredictorConfig) else FORMAT
    section, _, to_dict = SECTIONS[format]
    return {
        "format": format,
        "format_version": FORMAT_VERSION,
        "s4gen_version": s4gen.__version__,
        section: to_dict(config),
    }


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
