"""What an engine makes of given sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.teacher_forcing import fed, log_probabilities


@torch.no_grad()
def nats_by_engine(recurrent: RecurrentModel, engine: Engine, x: Tensor, label: Tensor | None = None) -> Tensor:
    """-log p(x_t | x_<t) token by token in this engine, teacher-forced: x (B, L) int64 -> (B, L) float64 nats.

    Rows of unequal length may be padded behind their ends: what stands there changes nothing before it. label int64
    (B,) where there are classes, 0 by default.
    """
    session = engine.begin(recurrent.initial_state(len(x), label))
    steps = zip(log_probabilities(session.feed, fed(x, recurrent.bos)), x.unbind(dim=1), strict=True)
    return torch.stack([-step.gather(-1, target.unsqueeze(-1)).squeeze(-1) for step, target in steps], dim=1)
