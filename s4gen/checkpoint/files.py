"""The files of a checkpoint: their formats, tensors as safetensors, and JSON, with one sentence for each damage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

import s4gen
from s4gen.checkpoint.fitting import check_fit, fitting
from s4gen.checkpoint.tensors import Header, check_finite, read_tensors
from s4gen.config import (
    DensityConfig,
    PredictorConfig,
    density_config_from_dict,
    density_config_to_dict,
    predictor_config_from_dict,
    predictor_config_to_dict,
)
from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.parsing import read_json as read_parsed
from s4gen.files.parsing import reason
from s4gen.files.reading import LARGE, read_bounded, sha256_of

T = TypeVar("T")

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
MODEL_FILE = "model.safetensors"
CONSTANTS_FILE = "recurrent.safetensors"
"""The discrete constants of a converted checkpoint (s4gen.sampling.converted)."""
FILES_OF_A_MODEL = ("config.json", MODEL_FILE, CONSTANTS_FILE, TOKENIZER_FILE)
"""These files of a checkpoint decide its results. Not every checkpoint has the last two."""
ANY_TABLE = expected.mapping(expected.anything)
SECTIONS: dict[str, tuple[str, Any, Any]] = {
    FORMAT: ("density", density_config_from_dict, density_config_to_dict),
    PREDICTOR_FORMAT: ("predictor", predictor_config_from_dict, predictor_config_to_dict),
}
"""For each format the section of config.json that holds the configuration, and how it is read and written."""


def model_digest(folder: Path) -> str:
    """Return a SHA-256 over those files of a checkpoint that results depend on; a copy of them has the same one."""
    files = [folder / name for name in FILES_OF_A_MODEL if (folder / name).is_file()]
    return hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode()).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, exactly. A full disk is an OSError, as for every other file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(safetensors.torch.save(plain))


def load_tensors(path: Path, check: Callable[[Header], None] = lambda header: None) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote, after `check` has looked at names, types and shapes and raised nothing.

    Raises:
        UserError: the file is missing, truncated or not safetensors, or holds numbers that are not finite.
    """
    try:
        return _in_words(path, lambda: read_tensors(path, check))[0]
    except ValueError as error:
        problem = shortened(reason(error))
        raise UserError(f"{path} is damaged or truncated ({problem}); copy or save the checkpoint again") from None


def load_fitting(path: Path, wanted: Mapping[str, Tensor], exact: Collection[str] = ()) -> dict[str, Tensor]:
    """Read the tensors of a model, which is compared with the file before its data are read.

    Args:
        path: the file.
        wanted: tensors of the names, types and shapes that the file must have; they may be on the meta device.
        exact: names of tensors that keep the precision in which they are stored.

    Raises:
        UserError: as for `load_tensors`, and where the file does not fit.
    """
    found = load_tensors(path, lambda header: check_fit(header.tensors, wanted, path, exact))
    fitted = fitting(found, wanted, path, exact)
    check_finite(fitted, path)  # a large number in float64 is infinite in float32
    return fitted


def config_in(tables: Mapping[str, Any], path: Path) -> DensityConfig | PredictorConfig:
    """Return the model's configuration from the content of the config.json at `path`.

    Raises:
        UserError: it is no model's, of another format version, or damaged.
    """
    if tables.get("format") == LAYER_FORMAT:
        raise UserError(f"{path.parent} is a single layer, not a density model; s4gen.layers.load_layer reads it")
    if tables.get("format") == "s4gen-classifier":
        raise UserError(f"{path.parent} is a classifier of an earlier version of s4gen; train it again")
    if not isinstance(tables.get("format"), str) or tables["format"] not in SECTIONS:
        raise UserError(
            f'{path}: format = {shortened(repr(tables.get("format")), 60)}: expected "{FORMAT}"; this is another '
            "program's file"
        )
    section, from_dict, _ = SECTIONS[tables["format"]]
    version = tables.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        writer = shortened(str(tables.get("s4gen_version", "unknown")), 60)
        raise UserError(
            f"{path}: checkpoint format version {shortened(repr(version), 60)}, but s4gen {s4gen.__version__} reads "
            f"version {FORMAT_VERSION}; use the s4gen that wrote it ({writer})"
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


def read_json(path: Path, check: expected.Check = ANY_TABLE, finite: bool = True) -> dict[str, Any]:
    """Return what `check` makes of the JSON object in a checkpoint's file; by default it may be any object.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    advice = "copy or save the checkpoint again"
    found: dict[str, Any] = _in_words(
        path, lambda: read_parsed(path, lambda value: check(value, ""), advice=advice, finite=finite)
    )
    return found


def read_bytes(path: Path) -> bytes:
    """Return the content of a checkpoint's file that is no tensors, such as a tokeniser.

    Raises:
        UserError: the file is missing, cannot be read, or is too large.
    """
    return _in_words(path, lambda: read_bounded(path, LARGE))


def _in_words(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing, so {path.parent} is not a complete checkpoint") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
