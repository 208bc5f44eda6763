"""Building the model that a configuration describes."""

from __future__ import annotations

from typing import overload

import torch

from s4gen.config import DensityConfig, PredictorConfig
from s4gen.models.density import DensityModel
from s4gen.models.pixels import PixelModel
from s4gen.models.predictor import Predictor
from s4gen.models.tokens import TokenModel

AnyConfig = DensityConfig | PredictorConfig
AnyModel = DensityModel | Predictor


@overload
def build_model(config: DensityConfig) -> DensityModel: ...
@overload
def build_model(config: PredictorConfig) -> Predictor: ...
@overload
def build_model(config: AnyConfig) -> AnyModel: ...
def build_model(config: AnyConfig) -> AnyModel:
    """Build a model with fresh weights, drawn from torch's global generator."""
    if isinstance(config, PredictorConfig):
        return Predictor(config)
    return PixelModel(config) if config.model.whole_pixels else TokenModel(config)


@overload
def build_shapes(config: DensityConfig) -> DensityModel: ...
@overload
def build_shapes(config: PredictorConfig) -> Predictor: ...
@overload
def build_shapes(config: AnyConfig) -> AnyModel: ...
def build_shapes(config: AnyConfig) -> AnyModel:
    """Build the same model on the meta device, where tensors have shapes but no memory, to count what it is made of.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build_model(config)
