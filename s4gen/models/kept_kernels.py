"""Keeping the kernels of state space layers, for a model whose parameters no longer change."""

from __future__ import annotations

import functools

from torch import nn

from s4gen.models.ssm_layers import SSMLayer


def keep_kernels(model: nn.Module) -> None:
    """Let the state space layers of this model, whose parameters are now fixed, build each kernel only once.

    A forward pass builds its kernels anew, because in training the parameters have changed. That is not needed to score
    a text chunk by chunk, or to run the convolution again for each token. One set of maps is kept for
    each (T, last) that `SSMLayer.block_maps` is called with.
    """
    for layer in ssm_layers(model):
        layer.block_maps = functools.cache(layer.block_maps)  # type: ignore[method-assign]


def ssm_layers(model: nn.Module) -> list[SSMLayer]:
    """Return the state space layers, also those inside of other layers; a Transformer and a WaveNet have none."""
    return [layer for layer in model.modules() if isinstance(layer, SSMLayer)]
