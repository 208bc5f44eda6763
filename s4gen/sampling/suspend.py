"""Saving a generation under way: one safetensors file holds everything, but for the model, that it needs to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from s4gen.checkpoint.tensors import Header, read_tensors
from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.atomic import write_file_atomic
from s4gen.files.parsing import json_value, reason
from s4gen.models.density import ModelState
from s4gen.models.plausible import check_range, check_state
from s4gen.models.states import from_named, map_tensors, named
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import Filters
from s4gen.sampling.fingerprint import digest, fingerprint
from s4gen.sampling.prompts import Start
from s4gen.sampling.repetition import with_seen

FORMAT = "s4gen-generation"
FORMAT_VERSION = "1"


_FILTERS = expected.table(
    {},
    {each.name: expected.whole() if type(each.default) is int else expected.number() for each in fields(Filters)},
)
"""This table checks the filters: any of them may be there, each of the type of its default."""


class Suspended(NamedTuple):
    """Everything that makes up a generation except the model and the engine."""

    seed: int
    filters: Filters
    sequences: list[int]
    start: Start
    ready: Tensor  # int64 (n, K): tokens that are drawn and not handed out yet


def write(path: str | Path, recurrent: RecurrentModel, suspended: Suspended) -> None:
    """Make or replace the file. If anything fails, an old file stays as it was.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    tensors = {
        "token": suspended.start.token,
        "ready": suspended.ready,
        "sequences": torch.tensor(suspended.sequences),
        **named(suspended.start.state),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": fingerprint(recurrent),
        "seed": str(suspended.seed),
        "filters": json.dumps(_set(suspended.filters)),
    }
    metadata["sha256"] = digest(tensors, metadata)
    write_file_atomic(path, safetensors.torch.save(tensors, metadata))


def read(path: str | Path, recurrent: RecurrentModel) -> Suspended:
    """Read what `write` wrote; its tensors are then on the model's device.

    Raises:
        UserError: there is no such file, it is damaged or no suspended generation, or it was written with another
            model.
    """
    tensors, metadata = _load(path)
    if metadata.pop("sha256", None) != digest(tensors, metadata):
        raise UserError(f"{path} is damaged: its content is not what was written; start the generation again")
    if metadata.get("model") != fingerprint(recurrent):
        raise UserError(f"{path} was written with another model; give the model that began the generation")
    try:
        return _restored(recurrent, tensors, metadata)
    except (ValueError, UserError) as error:  # the latter from a filter that is out of range
        raise UserError(f"{path} is damaged ({shortened(str(error))}); start the generation again") from None


def _set(filters: Filters) -> dict[str, float]:
    """Return the settings that are not at their defaults.

    So a file that does not use a newer filter does not name it, and an older s4gen can read it.
    """
    return {
        each.name: getattr(filters, each.name)
        for each in fields(filters)
        if getattr(filters, each.name) != each.default
    }


def _load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    def check(header: Header) -> None:
        if header.metadata.get("format") != FORMAT:
            raise UserError(f"{path} is not a suspended generation; expected a file that Generation.save wrote")
        version = header.metadata.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {shortened(str(version), 60)}, this s4gen reads {FORMAT_VERSION}; "
                "continue it with the s4gen that wrote it"
            )

    try:
        return read_tensors(path, check)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged or not a suspended generation ({shortened(reason(error))})") from None


def _restored(recurrent: RecurrentModel, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Suspended:
    """Put the generation together.

    Raises:
        ValueError: parts are missing or do not fit the model or each other.
        UserError: a filter is out of range.
    """
    sequences, token, ready = (_integers(tensors, name) for name in ("sequences", "token", "ready"))
    n = len(sequences) if sequences.ndim == 1 else 0
    if n < 1 or token.shape != (n,) or ready.ndim != 2 or len(ready) != n:
        raise ValueError("its rows do not fit together")
    vocab = recurrent.config.layout.vocab
    check_range(sequences, expected.LARGEST, "the number of a sequence")
    check_range(ready, vocab - 1, "a token that is drawn")
    check_range(token, max(vocab - 1, recurrent.bos), "the last token")
    seed = metadata.get("seed", "")
    if not (len(seed) <= 20 and seed.isascii() and seed.isdigit() and int(seed) < 2**64):
        raise ValueError("its seed is none")
    filters = Filters(**_FILTERS(json_value(metadata.get("filters", "")), "filters"))
    template = recurrent.initial_state(1)
    template = with_seen(template, vocab) if filters.remembers else template
    state: ModelState = from_named(template, tensors, n)
    check_state(recurrent.source, state)
    start, ready = map_tensors(lambda x: x.to(recurrent.device), (Start(token, state), ready))
    return Suspended(int(seed), filters, sequences.tolist(), start, ready)


def _integers(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the tensor of this name.

    Raises:
        ValueError: it is missing, or is not of int64.
    """
    found = tensors.get(name)
    if found is None or found.dtype != torch.int64:
        raise ValueError(f"{name} is missing, or holds no whole numbers")
    return found
