"""The engines, and the kinds of models, that every theorem about sampling is tested with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import noisy_model
from torch import Tensor

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.evaluate.scorers import by_recurrence, fed
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.mixture import MixtureHead
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
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

_SIZE: dict[str, Any] = {"d_model": 6, "n_layers": 1, "d_ff": 10}
_MIXTURE: dict[str, Any] = {"whole_pixels": True, "head": "mixture", "components": 3}
PIXELS = {
    "pixels": ModelConfig(
        **_SIZE, **_MIXTURE, neighbourhood=1, taps=True, mixers_per_block=3, scan=("row", "column", "none")
    ),
    "pixels, channels": ModelConfig(**_SIZE, whole_pixels=True, taps=True),
    "grey pixels": ModelConfig(**_SIZE, whole_pixels=True, neighbourhood=2, scan=("column",)),
    "grey pixels, h3": ModelConfig(mixer="h3", **_SIZE, **_MIXTURE),
}
"""Whole pixels, of three channels or of one."""
KINDS = ("s4d", "s4", "h3", "sashimi", *PIXELS)


def model_of(kind: str) -> DensityModel:
    """A tiny one of random weights on sequences of 30 tokens."""
    if kind not in ("sashimi", *PIXELS):
        return noisy_model(kind)
    torch.manual_seed(0)
    layout = ImageLayout(height=6, width=5, channels=1, levels=11)
    if kind.startswith("pixels"):
        layout = ImageLayout(height=5, width=2, channels=3, levels=11)
    model = PIXELS.get(kind, ModelConfig("s4d", **_SIZE, pool=(2, 3), unet=True))
    ssm = SSMConfig(d_state=4, init="lin", dt_min=0.01, dt_max=0.5)
    return shaken(build_model(DensityConfig(layout, model, ssm)))


def shaken(model: DensityModel) -> DensityModel:
    """Noise on all parameters, so that nothing is zero or the same in two places.

    A mixture's scales become wide: where they are narrow, float32 rounds the logarithm of a tail to few digits.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        if isinstance(model.head, MixtureHead):
            model.head.linear.weight.mul_(0.2)
            by_component = model.head.linear.bias.view(model.head.components, -1)
            by_component[:, 1 + model.head.channels :][:, : model.head.channels] += 0.7
    return model


def nats_by_engine(recurrent: RecurrentModel, engine: Engine, x: Tensor, label: Tensor | None = None) -> Tensor:
    """-log p(x_t | x_<t) of whole sequences x int64 (B, L), token by token in this engine: float64 (B, L) nats."""
    return by_recurrence(recurrent, engine)(fed(x, recurrent.bos), x, None, label)[0]
