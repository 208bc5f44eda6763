"""An engine, or a model, that is fed given sequences instead of what it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor


def log_probabilities(feed: Callable[[Tensor], Tensor], tokens: Tensor) -> Iterator[Tensor]:
    """Feed tokens int64 (B, L) one after another; yields the log-probabilities of the next one, float64 (B, V) each."""
    for token in tokens.unbind(dim=1):
        yield feed(token).double().log_softmax(dim=-1)


def fed(x: Tensor, bos: int) -> Tensor:
    """Return what a model is fed so that it predicts whole sequences x int64 (B, L): `bos`, then all but the last."""
    return F.pad(x[:, :-1], (1, 0), value=bos)
