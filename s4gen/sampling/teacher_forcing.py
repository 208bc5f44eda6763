"""An engine that is fed given sequences instead of what it draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine


def log_probabilities(
    recurrent: RecurrentModel, engine: Engine, x: Tensor, label: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield log p(. | x_<t) in nats, float64 (B, V), for every position t of x int64 (B, L) in turn.

    `label` int64 (B,) says the class of each row, where there are classes; by default it is 0.
    """
    session = engine.begin(recurrent.initial_state(len(x), label))
    token = torch.full_like(x[:, 0], recurrent.bos)
    for t in range(x.shape[1]):
        yield session.feed(token).double().log_softmax(dim=-1)
        token = x[:, t]
