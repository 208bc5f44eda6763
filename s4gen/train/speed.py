"""How fast training goes, for the metrics and the progress bar."""

from __future__ import annotations

import torch

from s4gen.models.density import DensityModel
from s4gen.train.tasks import Batch
from s4gen.train.utilisation import Utilisation


class Speed:
    """Sums over the steps since the last line of the metrics; evaluations and saving are no part of it."""

    def __init__(self, model: DensityModel, device: torch.device, precision: str, unit: str, world: int = 1) -> None:
        """`unit`: what is counted per second, images, clips or tokens, by `world` ranks together."""
        self._utilisation, self._unit = Utilisation(model, device, precision, world), unit
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self._rows = self._tokens = self._flops = 0
        self._seconds = self._exchanging = self._silent = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count a step on this batch that took so long."""
        rows, length = batch.tokens.shape
        self._rows += rows
        self._tokens += rows * length
        self._flops += self._utilisation.flops(rows, length)
        self._seconds += seconds

    def exchanged(self, seconds: float, silent: float | None) -> None:
        """Count the time from a step's first gradient to its last message, which would be `silent` without messages."""
        if silent is not None:
            self._exchanging += seconds
            self._silent += silent

    def values(self) -> dict[str, float]:
        """For the metrics: tokens, and images or clips, per second, and the utilisation where it is known."""
        found = {f"{self._unit}_per_second": self._rate(), "tokens_per_second": self._tokens / self._seconds}
        share = self._utilisation.of(self._flops, self._seconds)
        if share is not None:
            found["utilisation"] = share
        if self._silent:
            found["scaling_efficiency"] = self._efficiency()
        return found

    def say(self) -> str:
        """The same in a few words."""
        share = self._utilisation.of(self._flops, self._seconds)
        scaling = f", scaling {self._efficiency():.0%}" if self._silent else ""
        return f"{self._rate():,.1f} {self._unit}/s" + ("" if share is None else f", {share:.0%} of peak") + scaling

    def _efficiency(self) -> float:
        return min(1.0, (self._seconds - self._exchanging + self._silent) / self._seconds)

    def _rate(self) -> float:
        return (self._tokens if self._unit == "tokens" else self._rows) / self._seconds
