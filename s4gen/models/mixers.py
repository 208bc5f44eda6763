"""Building mixers from a configuration. All else that there is to know of a mixer stands in `config.mixers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from s4gen.config import ModelConfig, SSMConfig
from s4gen.models.attention import CausalAttention
from s4gen.models.h3 import H3
from s4gen.models.lssl_dss import DSS, LSSL
from s4gen.models.ssm_layers import S4, S4D
from s4gen.models.wavenet import WaveNet

Builder = Callable[[ModelConfig, SSMConfig], nn.Module]


def _by_width(layer: Callable[[int, SSMConfig], nn.Module]) -> Builder:
    """Return the builder of a class that needs to know d_model and the section [ssm]."""
    return lambda model, ssm: layer(model.d_model, ssm)


BUILDERS: dict[str, Builder] = {
    "s4d": _by_width(S4D),
    "s4": _by_width(S4),
    "h3": _by_width(H3),
    "dss": _by_width(DSS),
    "lssl": _by_width(LSSL),
    "attention": lambda model, _: CausalAttention(model.d_model, model.n_heads, model.window),
    "wavenet": lambda model, _: WaveNet(model.d_model, model.n_layers, model.d_ff),
}
"""For each name in `config.mixers`, the function that makes such a mixer with fresh weights."""


def make_mixer(model: ModelConfig, ssm: SSMConfig) -> Any:
    """Make the sequence layer of one block, or the whole stack where the mixer is one (`Mixer.whole_stack`).

    It is a module with `forward`, `initial_state` and `step`.
    """
    return BUILDERS[model.mixer](model, ssm)
