"""Count how fast training goes, for the metrics and the progress bar."""

from __future__ import annotations

import torch

from s4gen.models.build import AnyModel
from s4gen.train.batches import Batch
from s4gen.train.utilisation import Utilisation


class Speed:
    """A counter over the steps since the last line of the metrics, without evaluating and saving."""

    def __init__(self, model: AnyModel, device: torch.device, precision: str, unit: str, world: int = 1) -> None:
        """Count `unit` (images, clips, tokens, ..) per second of `world` ranks together; `precision` sets the peak."""
        self._utilisation, self._unit = Utilisation(model, device, precision, world), unit
        self.reset()

    def reset(self) -> None:
        """Begin a new count."""
        self._rows = self._tokens = self._flops = 0
        self._seconds = self._exchanging = self._silent = 0.0

    def add(self, batch: Batch, seconds: float) -> None:
        """Count a step on this batch that took `seconds`."""
        rows, length = batch.rows, batch.length
        self._rows += rows
        self._tokens += rows * length
        self._flops += self._utilisation.flops(rows, length)
        self._seconds += seconds

    def exchanged(self, seconds: float, silent: float | None) -> None:
        """Count the seconds from the beginning of a step to its last message.

        `silent` is what they would be without messages between ranks; None if that is unknown.
        """
        if silent is not None:
            self._exchanging += seconds
            self._silent += silent

    def values(self) -> dict[str, float]:
        """Return what the metrics record: rates per second and, if known, utilisation and scaling efficiency."""
        found = {f"{self._unit}_per_second": self._rate(), "tokens_per_second": self._tokens / self._seconds}
        share = self._utilisation.of(self._flops, self._seconds)
        if share is not None:
            found["utilisation"] = share
        if self._silent:
            found["scaling_efficiency"] = self._efficiency()
        return found

    def say(self) -> str:
        """Return the same in a few words, for the progress bar."""
        share = self._utilisation.of(self._flops, self._seconds)
        scaling = f", scaling {self._efficiency():.0%}" if self._silent else ""
        return f"{self._rate():,.1f} {self._unit}/s" + ("" if share is None else f", {share:.0%} of peak") + scaling

    def _efficiency(self) -> float:
        # `silent` was measured once, when training began; a step that is faster now must not count as more than all.
        return min(1.0, (self._seconds - self._exchanging + self._silent) / self._seconds)

    def _rate(self) -> float:
        return (self._tokens if self._unit == "tokens" else self._rows) / self._seconds
