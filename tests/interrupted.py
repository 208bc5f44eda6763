"""Runs that end before their time."""

from __future__ import annotations

import pytest

from s4gen.train import loop, training_run
from s4gen.train.batches import Batch


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Make a run die, as by a power cut, before step `step` + 1."""
    real = loop.training_step

    def dying(state: training_run.TrainingRun, batch: Batch) -> tuple[float, float]:
        if state.step == step:
            raise error
        return real(state, batch)

    monkeypatch.setattr(loop, "training_step", dying)
