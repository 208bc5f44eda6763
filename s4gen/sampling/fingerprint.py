"""Hashes that tie what is saved of a generation or a prompt to the model that it was computed by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from s4gen.config import density_config_to_dict
from s4gen.sampling.convert import RecurrentModel


def fingerprint(recurrent: RecurrentModel) -> str:
    """Return a hash of the model, over its configuration and all its tensors."""
    config = {"config": json.dumps(density_config_to_dict(recurrent.config), sort_keys=True)}
    return digest(recurrent.source.state_dict(), config)


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 over the names, types, shapes and bytes of the tensors and over the metadata."""
    found = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
