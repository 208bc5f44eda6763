"""Scoring: what each token of given sequences costs, -log p in nats, by either view of a model.

    nats_t = -log p(target_t | state, tokens up to t) >= 0

A `Scorer` takes chunks of sequences and hands its state on, so that one signature serves whole images, texts that are
read as one stream, and recordings in pieces. `by_convolution` scores a chunk in parallel, `by_recurrence` scores it
token by token in an engine. The engine is given, and only its shape is described here: training uses this module and
knows no engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from s4gen.models.density import DensityModel, ModelState
from s4gen.models.states import padded_rows

Feed = Callable[[Tensor], Tensor]
"""A function that reads one token int64 (B,) of every row and returns the logits r(B, V) of the next ones."""


Nats = NDArray[np.float64]
"""The costs -log p of n sequences in nats, float64 (n,)."""


class Scorer(Protocol):
    """A way to score tokens under a model; `DensityModel.score` is one."""

    def __call__(
        self, tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Score the tokens `target` that follow the tokens fed.

        Args:
            tokens: int64 (B, L), what the model is fed, on any device.
            target: int64 (B, L), what follows each of them.
            state: what an earlier call returned, to go on behind its tokens; None to start, so that the first token of
                each row must be one that may start a sequence. It is good for one call.
            label: int64 (B,), the classes of the rows of a model that is conditional on them. A state knows them.

        Returns:
            -log p(target_t | state, tokens up to t) in nats, r(B, L), and the state behind the last token.
        """
        ...


def by_convolution(model: DensityModel) -> Scorer:
    """Score by the convolution view of a model, all tokens of a call in parallel, on the device of the model."""

    def score(
        tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        device = model.device
        return model.score(tokens.to(device), target.to(device), state, None if label is None else label.to(device))

    return score


class Begun(Protocol):
    """A session of an engine, of which scoring needs only this."""

    def feed(self, token: Tensor) -> Tensor:
        """Read one token int64 (B,) of every row; returns the logits r(B, V) of the next ones."""
        ...


class Stepping(Protocol):
    """An engine: it begins a session from a state."""

    def begin(self, state: ModelState) -> Begun:
        """Begin a session, which leaves `state` as it is."""
        ...


class Recurrent(Protocol):
    """A converted model: it knows the state before the first token."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        ...

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """Return the state before `bos` of so many rows, whose classes are `label` int64 (B,) where there are any."""
        ...


def by_recurrence(recurrent: Recurrent, engine: Stepping) -> Scorer:
    """Score by the recurrent view of a model, token by token in this engine, in float64; the state is its session.

    What is fed is given (teacher forcing), so what stands behind the end of a row changes nothing before it, and rows
    of unequal lengths may be padded with anything.
    """

    @torch.no_grad()
    def score(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, Begun]:
        # A session moves on in place. It is the state itself: nobody needs a copy of its model's state for every chunk.
        session: Begun = engine.begin(recurrent.initial_state(len(tokens), label)) if state is None else state
        device = recurrent.device
        return nats_by_steps(session.feed, tokens.to(device), target.to(device)), session

    return score


def in_whole_rows(score: Scorer, multiple: int, least: int = 0) -> Scorer:
    """Return a scorer that repeats a last row until their number is a multiple of `multiple`, and drops what they cost.

    With `models.states.row_multiple` a row then costs the same on a CPU, bit for bit, whichever rows are beside it, if
    it has `models.states.least_length` tokens. Shorter ones are filled up to `least`; the state behind them is of no
    use then, so scorers of pieces leave that out.
    """

    def scored(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, Any]:
        rows = padded_rows(len(tokens), multiple).to(tokens.device)
        label = None if label is None else label[rows.to(label.device)]
        missing = (0, max(0, least - tokens.shape[1]))
        nats, state = score(F.pad(tokens[rows], missing), F.pad(target[rows], missing), state, label)
        return nats[: len(tokens), : tokens.shape[1]], state

    return scored


def nats_by_steps(feed: Feed, tokens: Tensor, target: Tensor) -> Tensor:
    """Feed tokens int64 (B, L) one after another; returns -log p of target int64 (B, L) in nats, float64 (B, L)."""
    steps = zip(log_probabilities(feed, tokens), target.unbind(dim=1), strict=True)
    return torch.stack([-step.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) for step, wanted in steps], dim=1)


def log_probabilities(feed: Feed, tokens: Tensor) -> Iterator[Tensor]:
    """Feed tokens int64 (B, L) one after another; yields the log-probabilities of the next one, float64 (B, V) each."""
    for token in tokens.unbind(dim=1):
        yield feed(token).double().log_softmax(dim=-1)


def summed(nats: Tensor, counts: Tensor | None = None) -> Nats:
    """Return what each row costs: the sums (B,) of nats r(B, L) in float64, where `counts` bool (B, L) is true.

    A sum depends on the numbers of its row alone. torch's may depend on how many rows there are.
    """
    exact = nats.double().cpu().numpy()
    exact = exact if counts is None else np.where(counts.cpu().numpy(), exact, 0.0)
    sums: Nats = np.ascontiguousarray(exact).sum(axis=-1)
    return sums


def fed(x: Tensor, bos: int) -> Tensor:
    """Return what a model is fed so that it predicts whole sequences x int64 (B, L): `bos`, then all but the last."""
    return F.pad(x[:, :-1], (1, 0), value=bos)
