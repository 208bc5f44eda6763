"""How fast training goes, for the metrics and the progress bar."""

from __future__ import annotations

import torch

from s4gen.models.density import DensityModel
from s4gen.train.tasks import Batch
from s4gen.train.utilisation import Utilisation


class Speed:
    """Sums over the steps since the last line of the metrics; evaluations and saving are no part of it."""

    def __init__(self, model: DensityModel, device: torch.device, precision: str, unit: str) -> None:
        """`unit`: what is counted per second, images, clips or tokens."""
        self._utilisation, self._unit = Utilisation(model, device, precision), unit
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self._rows = self._tokens = self._flops = 0
        self._seconds = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count a step on this batch that took so long."""
        rows, length = batch.tokens.shape
        self._rows += rows
        self._tokens += rows * length
        self._flops += self._utilisation.flops(rows, length)
        self._seconds += seconds

    def values(self) -> dict[str, float]:
        """For the metrics: tokens, and images or clips, per second, and the utilisation where it is known."""
        found = {f"{self._unit}_per_second": self._rate(), "tokens_per_second": self._tokens / self._seconds}
        share = self._utilisation.of(self._flops, self._seconds)
        return found if share is None else found | {"utilisation": share}

    def say(self) -> str:
        """The same in a few words."""
        share = self._utilisation.of(self._flops, self._seconds)
        return f"{self._rate():,.1f} {self._unit}/s" + ("" if share is None else f", {share:.0%} of peak")

    def _rate(self) -> float:
        return (self._tokens if self._unit == "tokens" else self._rows) / self._seconds
