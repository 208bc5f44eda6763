"""What an engine makes of given sequences, and what its approximations cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.randomness import uniforms

LOSSY = ("native-bf16", "native-int8")
"""Engines that compute something else than the model: its weights are rounded."""
UNITS = {"image": "bits/dim", "text": "bits/token", "audio": "bits/sample"}
"""Of what a token costs, by the kind of layout."""
_LOGITS = 1 << 25
"""Made at a time."""


@torch.no_grad()
def nats_by_engine(recurrent: RecurrentModel, engine: Engine, x: Tensor, label: Tensor | None = None) -> Tensor:
    """-log p(x_t | x_<t) token by token in this engine, teacher-forced: x (B, L) int64 -> (B, L) float64 nats.

    Rows of unequal length may be padded behind their ends: what stands there changes nothing before it. label int64
    (B,) where there are classes, 0 by default.
    """
    steps = zip(_log_probabilities(recurrent, engine, x, label), x.unbind(dim=1), strict=True)
    return torch.stack([-step.gather(-1, target.unsqueeze(-1)).squeeze(-1) for step, target in steps], dim=1)


def _log_probabilities(
    recurrent: RecurrentModel, engine: Engine, x: Tensor, label: Tensor | None = None
) -> Iterator[Tensor]:
    """log p(. | x_<t) for every position t of x (B, L), float64 (B, V) each."""
    session = engine.begin(recurrent.initial_state(len(x), label))
    token = torch.full_like(x[:, 0], recurrent.bos)
    for t in range(x.shape[1]):
        yield session.feed(token).double().log_softmax(dim=-1)
        token = x[:, t]


@dataclass(frozen=True)
class Loss:
    """What the rounding of an engine costs."""

    bits_per_dim: float
    stderr: float
    """Standard error over the sequences."""
    tokens: int
    """Tokens that it was measured on."""
    unit: str = "bits/dim"
    """Of text bits/token, of audio bits/sample."""

    def __str__(self) -> str:
        lost = f"{self.bits_per_dim:.2g} ± {self.stderr:.1g} {self.unit}"
        return f"loses {lost} ({self.tokens:,} of the model's own tokens)"


@torch.no_grad()
def loss_of(recurrent: RecurrentModel, engine: Engine, n: int = 8, length: int = 512) -> Loss:
    """What the engine loses on n sequences of `length` tokens that the model itself drew: no data are needed.

    For every token the Kullback-Leibler divergence of the engine's distribution from that of the convolution view, in
    bits. That is the expectation, over the model's own sequences, of bits/dim by the engine less bits/dim by the model.
    Where there are classes they take turns.
    """
    layout = recurrent.config.layout
    length = min(length, layout.length)
    classes = len(getattr(layout, "classes", ()))
    label = torch.arange(n, device=recurrent.device) % max(1, classes)
    session = make_engine("eager", recurrent).begin(recurrent.initial_state(n, label))
    bos = torch.full((n, 1), recurrent.bos, device=recurrent.device)
    x = session.advance(bos[:, 0], uniforms(0, range(n), length))
    nats = torch.zeros(n, dtype=torch.float64, device=x.device)
    by_convolution = _logits(recurrent, torch.cat((bos, x[:, :-1]), dim=1), label)
    for exact, found in zip(by_convolution, _log_probabilities(recurrent, engine, x, label), strict=True):
        exact = exact.double().log_softmax(dim=-1)
        nats += (exact.exp() * (exact - found)).sum(dim=-1)
    lost = nats / length / math.log(2)
    return Loss(lost.mean().item(), lost.std().item() / math.sqrt(n), x.numel(), UNITS[layout.kind])


def _logits(recurrent: RecurrentModel, fed: Tensor, label: Tensor) -> Iterator[Tensor]:
    """By convolution, (B, V) for every position of fed (B, L), a few at a time where the vocabulary is large."""
    state = recurrent.source.initial_state(len(fed), label)
    for part in fed.split(max(1, _LOGITS // (len(fed) * recurrent.config.layout.vocab)), dim=1):
        logits, state = recurrent.source(part, state)
        yield from logits.unbind(dim=1)
