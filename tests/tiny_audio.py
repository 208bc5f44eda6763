"""Tiny models of sound with random weights, for the tests of sampling."""

from __future__ import annotations

import torch

from s4gen.config import AudioLayout, DensityConfig, ModelConfig, SSMConfig
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

DIGITS = ("zero", "one", "two")
SOUNDING = {
    "sashimi": ModelConfig("s4d", d_model=6, n_layers=1, d_ff=10, pool=(2, 3), expand=2, unet=True),
    "sashimi-s4": ModelConfig("s4", d_model=6, n_layers=1, d_ff=10, pool=(4,), expand=1),
    "s4d": ModelConfig("s4d", d_model=8, n_layers=1, d_ff=10),
    "wavenet": ModelConfig("wavenet", d_model=6, n_layers=4, d_ff=10),
}


def sounding_model(kind: str, classes: tuple[str, ...] = DIGITS, rate: int = 400, bits: int = 5) -> DensityModel:
    """All weights shaken by noise so that nothing is zero or the same in two places."""
    torch.manual_seed(0)
    layout = AudioLayout(rate, bits=bits, classes=classes)
    model = build_model(DensityConfig(layout, SOUNDING[kind], SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
