"""Building the density model that a configuration describes."""

from __future__ import annotations

import torch

from s4gen.config import DensityConfig
from s4gen.models.density import DensityModel
from s4gen.models.pixels import PixelModel
from s4gen.models.tokens import TokenModel


def build_model(config: DensityConfig) -> DensityModel:
    """Build a model with fresh weights, drawn from torch's global generator."""
    return PixelModel(config) if config.model.whole_pixels else TokenModel(config)


def build_shapes(config: DensityConfig) -> DensityModel:
    """Build the same model on the meta device, where tensors have shapes but no memory, to count what it is made of.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build_model(config)
