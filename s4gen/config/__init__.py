"""The configuration of models, data and training runs: frozen dataclasses, and strict loading from TOML.

Nothing here imports torch, because the command line reads recipes before it pays for heavy imports.
"""

from s4gen.config.density import DensityConfig
from s4gen.config.layouts import AudioLayout, ImageLayout, Layout, TextLayout
from s4gen.config.recipes import load_preset, load_recipe, recipe_to_dict, recipe_to_toml
from s4gen.config.run import DataConfig, OptimConfig, Recipe, TrainConfig, is_text, kind_of
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.strict import density_config_from_dict, density_config_to_dict

__all__ = [
    "AudioLayout",
    "DataConfig",
    "DensityConfig",
    "ImageLayout",
    "Layout",
    "ModelConfig",
    "OptimConfig",
    "Recipe",
    "SSMConfig",
    "TextLayout",
    "TrainConfig",
    "density_config_from_dict",
    "density_config_to_dict",
    "is_text",
    "kind_of",
    "load_preset",
    "load_recipe",
    "recipe_to_dict",
    "recipe_to_toml",
]
