"""Build mixers from a configuration. Their traits stand in `config.mixers`; what they must do stands here.

THE CONTRACT OF A MIXER. A mixer is a module that reads features r(B, L, H) and gives features r(B, L, H), where output
t depends on inputs up to t only. It has

- `initial_state(batch)`: the state before any input, tensors whose first axis is the batch, nested in tuples as one
  likes (see `models.states`);
- `forward(u, state=None, lengths=None)`, which returns y r(B, L, H) and the state after the last input. L is at least
  1; `state` None is the initial one. With lengths int64 (B,), the state of each row is the one after that many of its
  inputs. A mixer whose trait `ragged` is false raises ValueError where lengths are given;
- `step(u, state)`, which reads u r(B, H) and returns y r(B, H) and the next state;
- `flops(length)`, the floating-point operations of its matrix products in a `forward` over `length` inputs of one row.
  It is needed of a class that `models.flops` does not know.

Parallel, in chunks and in steps, outputs and states are the same at every length and in every precision, and neither
`forward` nor `step` changes a parameter or a buffer. Under autocast a mixer may compute in a lower precision; state
space layers leave autocast, because the phases of their kernels need float32.

Some traits ask for more. With `mixes_features` the last linear layer is called `out`, since `model.zero_start` sets it
to zero. With `inits` there is `rescale_dt_(factor)`, which multiplies every dt. Parameters that need a learning rate of
their own are named by `ssm_parameters`.

A layer that derives from `ssm_layers.SSMLayer` gets more in return: `sampling.convert` takes its step form
(`discretized()`, whose constants are computed once in float64), `bench` and `eval` keep its kernels, and
`tests/test_models.py` expects that u and states of a wrong shape raise ValueError in its words. Any other mixer is
stepped by its own `step`, also in a converted model. The native engine runs a mixer only if `sampling/flatten.py` can
say it in operations of the plan; for others, `--engine auto` takes the eager one.
"""

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
