"""A model of sound at another sampling rate than the one it was trained at, which `--rate` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s4gen.config.layouts import EXPECTED_RATES, RATES
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.checkpoint import AnyCheckpoint


def rate_of(rate: int, factor: float) -> int:
    """Return `factor` times a rate, in samples per second.

    Raises:
        UserError: sound cannot have this rate.
    """
    found = round(rate * factor)
    if found not in RATES:
        raise UserError(
            f"--rate {factor:g} times the model's {rate:,} is {found:,} samples per second: {EXPECTED_RATES}; "
            "the rate is a factor, such as 0.5"
        )
    return found


def at_rate(checkpoint: AnyCheckpoint, factor: float) -> Any:
    """Return the model for signals with `factor` times as many samples per second as it was trained on.

    Raises:
        UserError: its layers know no time.
    """
    from s4gen.models.sequence import resampled

    traits = checkpoint.config.model.traits
    if not traits.has_dt:
        raise UserError(
            f'--rate changes the step of state space layers, and model.mixer = "{traits.name}" has none: leave it out, '
            "or train at the other rate"
        )
    return resampled(checkpoint.model, 1 / factor)
