"""Check a state that was read from a file: that its numbers are such as a model can have left there.

Structure and shapes are checked where a state is put together (`states.from_named`). A state that fits in shape may
still hold tokens that the model does not have, or a cache that claims to be fuller than it is; with those, embeddings
are read out of bounds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s4gen.models.attention import AttentionState
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.states import paths

FARTHEST = 2**60
"""More tokens than any sequence will ever have."""


def check_state(model: DensityModel, state: ModelState) -> None:
    """Refuse a state that `model` cannot have left.

    Raises:
        ValueError: a position, class or token is out of range, a cache is inconsistent, or a number is not finite.
    """
    classes = len(getattr(model.config.layout, "classes", ()))
    # Beside the vocabulary there is bos, which for some models is one beyond it.
    largest = {"label": classes - 1, "recent": max(model.config.layout.vocab - 1, model.bos)}
    for path, value in paths(state):
        tensor = torch.as_tensor(value)
        if not tensor.numel():
            continue
        if tensor.dtype.is_floating_point:
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{path} of the state holds numbers that are not finite")
        elif tensor.dtype != torch.bool:
            check_range(tensor, largest.get(path.rpartition(".")[2], FARTHEST), f"{path} of the state")
    for cache in _caches(state):
        if cache.keys.shape != cache.values.shape or cache.length > cache.keys.shape[2]:
            raise ValueError("a cache of the state holds fewer positions than it claims")


def check_range(numbers: Tensor, most: int, name: str) -> None:
    """Refuse integers that are not from 0 to `most`.

    Raises:
        ValueError: some are not; the message calls the numbers `name`.
    """
    if numbers.numel() and not (int(numbers.min()) >= 0 and int(numbers.max()) <= most):
        raise ValueError(f"{name} is out of range: expected 0 to {most}")


def _caches(state: Any) -> list[AttentionState]:
    if isinstance(state, AttentionState):
        return [state]
    return [cache for part in state for cache in _caches(part)] if isinstance(state, tuple) else []
