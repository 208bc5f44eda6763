"""The configuration of models, data and training runs: frozen dataclasses, and strict loading from TOML.

Nothing here imports torch, because the command line reads recipes before it pays for heavy imports.
"""

from s4gen.config.data import DataConfig, is_text, kind_of
from s4gen.config.density import DensityConfig
from s4gen.config.layouts import AudioLayout, ImageLayout, InputLayout, Layout, SeriesLayout, TextLayout
from s4gen.config.predictor import Answers, PredictorConfig
from s4gen.config.recipes import load_preset, load_recipe, recipe_to_dict, recipe_to_toml
from s4gen.config.run import OptimConfig, Recipe, TrainConfig
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.strict import (
    density_config_from_dict,
    density_config_to_dict,
    predictor_config_from_dict,
    predictor_config_to_dict,
)
from s4gen.config.task import TaskConfig

__all__ = [
    "Answers",
    "AudioLayout",
    "DataConfig",
    "DensityConfig",
    "ImageLayout",
    "InputLayout",
    "Layout",
    "ModelConfig",
    "OptimConfig",
    "PredictorConfig",
    "Recipe",
    "SSMConfig",
    "SeriesLayout",
    "TaskConfig",
    "TextLayout",
    "TrainConfig",
    "density_config_from_dict",
    "density_config_to_dict",
    "is_text",
    "kind_of",
    "load_preset",
    "load_recipe",
    "predictor_config_from_dict",
    "predictor_config_to_dict",
    "recipe_to_dict",
    "recipe_to_toml",
]
