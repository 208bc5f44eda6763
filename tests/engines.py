"""The engines, and the kinds of models, that every theorem about sampling is tested with."""

from __future__ import annotations

import pytest
import torch
from tiny import noisy_model

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.engines.native.build import library


def _here() -> list[str]:
    try:
        library()
    except NativeUnavailable:
        return ["eager"]
    return ["eager", "native"]


ENGINES_HERE = _here()

# For a few theorems, as compiling takes its time; the compiler's own warnings differ from version to version.
WITH_COMPILED = [
    *ENGINES_HERE,
    pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
]

KINDS = ("s4d", "s4", "h3", "sashimi")


def model_of(kind: str) -> DensityModel:
    """A tiny one of random weights on sequences of 30 tokens."""
    if kind != "sashimi":
        return noisy_model(kind)
    torch.manual_seed(0)
    layout = ImageLayout(height=6, width=5, channels=1, levels=11)
    model = ModelConfig("s4d", d_model=6, n_layers=1, d_ff=10, pool=(2, 3), unet=True)
    return shaken(build_model(DensityConfig(layout, model, SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5))))


def shaken(model: DensityModel) -> DensityModel:
    """Noise on all parameters, so that nothing is zero or the same in two places."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
