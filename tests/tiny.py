"""Tiny density models for the tests of sampling."""

from __future__ import annotations

import torch

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel


def noisy_model(mixer: str, layout: ImageLayout | None = None, seed: int = 0, d_model: int = 12) -> DensityModel:
    """Two layers, all weights shaken by noise so that nothing is zero or the same in two places; in training mode."""
    torch.manual_seed(seed)
    config = DensityConfig(
        layout or ImageLayout(height=6, width=5, channels=1, levels=11),
        ModelConfig(mixer=mixer, d_model=d_model, n_layers=2, d_ff=20, n_heads=2),
        SSMConfig(d_state=8, dt_min=0.01, dt_max=0.5),
    )
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def random_sequences(model: DensityModel, n: int, seed: int = 1) -> torch.Tensor:
    """(n, L) int64, uniform."""
    layout = model.config.layout
    return torch.randint(0, layout.vocab, (n, layout.length), generator=torch.Generator().manual_seed(seed))
