"""The loss by an engine's rounded weights, in bits per token."""

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

_LOGITS_AT_A_TIME = 1 << 25
"""Logits that the convolution view makes at a time (134 MB in float32): with a large vocabulary, few positions."""


@dataclass(frozen=True)
class Loss:
    """The measured loss of an engine."""

    bits_per_dim: float
    """Bits per token, in the layout's unit."""
    stderr: float
    """Standard error of the mean over sequences, in the same unit."""
    tokens: int
    """Number of tokens that it was measured on."""
    unit: str = "bits/dim"
    """bits/dim for images, bits/token for text, bits/sample for sound."""

    def __str__(self) -> str:
        lost = f"{self.bits_per_dim:.2g} ± {self.stderr:.1g} {self.unit}"
        return f"loses {lost} ({self.tokens:,} of the model's own tokens)"


@torch.no_grad()
def loss_of(recurrent: RecurrentModel, engine: Engine, n: int = 8, length: int = 512) -> Loss:
    """Measure what the engine loses on n sequences of `length` tokens that the model itself drew: no data are needed.

    For every token it is the Kullback-Leibler divergence of the engine's distribution from that of the convolution
    view, in bits. In expectation over the model's own sequences that is bits/dim by the engine less bits/dim by the
    model, and it varies far less than the difference of the two, because it looks at whole distributions and not at
    the drawn tokens alone. Where there are classes, the sequences take turns through them. No sequence is longer than
    the layout's.
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
    by_convolution = _logits_by_convolution(recurrent, tokens, label)
    for exact, found in zip(by_convolution, log_probabilities(begun.feed, tokens), strict=True):
        exact = exact.double().log_softmax(dim=-1)
        nats += (exact.exp() * (exact - found)).sum(dim=-1)
    lost = nats / length / math.log(2)
    return Loss(lost.mean().item(), lost.std().item() / math.sqrt(n), x.numel(), layout.unit)


def _logits_by_convolution(recurrent: RecurrentModel, tokens: Tensor, label: Tensor) -> Iterator[Tensor]:
    """Yield the logits (B, V) after every position of tokens (B, L) in turn, made some positions at a time."""
    state = recurrent.source.initial_state(len(tokens), label)
    for part in tokens.split(max(1, _LOGITS_AT_A_TIME // (len(tokens) * recurrent.config.layout.vocab)), dim=1):
        logits, state = recurrent.source(part, state)
        yield from logits.unbind(dim=1)
