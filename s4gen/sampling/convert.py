"""The converter: it turns a trained model into fixed, discrete recurrences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s4gen.config import DensityConfig
from s4gen.evaluate.scorers import fed, nats_by_steps
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.states import contiguous
from s4gen.sampling.steps import twins


class RecurrentModel(nn.Module):
    """Two frozen views of one density model: `source` runs by convolution, `stepper` by recurrence.

    In the stepper a step form (Abar, Bbar, Cbar) stands in the place of every state space layer; all its other tensors
    are the source's own. Both views share one form of state, so a prompt can be read by convolution and then continued
    step by step.
    """

    def __init__(self, source: DensityModel, stepper: DensityModel) -> None:
        super().__init__()
        self.source = source
        self.stepper = stepper

    @property
    def config(self) -> DensityConfig:
        """The configuration of the model."""
        return self.source.config

    @property
    def bos(self) -> int:
        """The token that stands in front of every sequence."""
        return self.source.bos

    @property
    def device(self) -> torch.device:
        """The device on which both views are."""
        return self.source.device

    def initial_state(self, batch: int, label: Tensor | None = None) -> ModelState:
        """Return the state of `batch` rows before bos is fed; label int64 (B,) holds their classes, 0 if not given."""
        return self.stepper.initial_state(batch, label)

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Feed token int64 (B,) by recurrence; return logits r(B, V) for the next one and the new state.

        The first token that a row is fed must be bos.
        """
        return self.stepper.step(token, state)

    def prefill(
        self, x: Tensor, state: ModelState | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Read x int64 (B, L) by convolution; return logits r(B, V) for the token after it, and the state.

        Without a state, bos is put in front of x, and L may be 0. `label` int64 (B,) counts only there; a state knows
        its labels.
        """
        logits, state = self.source.prefill(x, state, label=label)
        return logits, contiguous(state)

    @torch.no_grad()
    def nats_recurrent(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Score x int64 (B, L) by recurrence, without an engine; return -log p(x_t | x_<t) in nats, float64 (B, L)."""
        state = self.initial_state(len(x), label)

        def feed(token: Tensor) -> Tensor:
            nonlocal state
            logits, state = self.step(token, state)
            return logits

        return nats_by_steps(feed, fed(x, self.bos), x)


@torch.no_grad()
def convert(model: DensityModel) -> RecurrentModel:
    """Convert a model to its recurrent form. The model is copied: it stays as it is, and later changes do not count."""
    return RecurrentModel(*twins(model))
