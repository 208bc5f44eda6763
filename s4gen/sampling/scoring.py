"""The cost of the approximations that an engine makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from s4gen.evaluate.scorers import fed, log_probabilities
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.randomness import uniforms

LOSSY = ("native-bf16", "native-int8")
"""Engines that compute something else than the model: its weights are rounded."""
UNITS = {"image": "bits/dim", "text": "bits/token", "audio": "bits/sample"}
"""Of what a token costs, by the kind of layout."""
_LOGITS = 1 << 25
"""Made at a time."""


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
    bos = torch.full((n,), recurrent.bos, device=recurrent.device)
    x = session.advance(bos, uniforms(0, range(n), length))
    nats = torch.zeros(n, dtype=torch.float64, device=x.device)
    tokens, begun = fed(x, recurrent.bos), engine.begin(recurrent.initial_state(n, label))
    by_convolution = _logits(recurrent, tokens, label)
    for exact, found in zip(by_convolution, log_probabilities(begun.feed, tokens), strict=True):
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
