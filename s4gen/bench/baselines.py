"""The baselines: other ways to generate than the recurrent mode, each as fast as we can make it.

- conv: our own model runs the whole prefix by convolution again for every token;
- transformer: attention takes the place of the state space layers, keys and values cached (see `cached_transformer`);
- transformer-no-cache: the same Transformer runs the whole prefix again for every token.

Each way is asked for one step at one position: `at(position)` returns a function that generates one more token for
every sequence of the batch, the `position` tokens before it being known. Embedding, head (at the last position only)
and the draw are part of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from s4gen.config import DensityConfig, ModelConfig
from s4gen.models.axial import Axial
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.ssm_layers import SSMLayer
from s4gen.sampling.randomness import draw

_ROOM = 1 << 30
"""Bytes of the widest activation that may be made at a time."""


class PrefixAgain:
    """Generation that runs the whole prefix through the parallel form of the model for every token."""

    def __init__(self, model: DensityModel, batch: int, length: int) -> None:
        device = model.device
        self._model = model
        self._tokens = torch.randint(model.config.layout.vocab, (batch, length), device=device)
        self._u = torch.rand(batch, dtype=torch.float64, device=device)

    def at(self, position: int) -> Callable[[], Tensor]:
        """Return a function that generates the token at this position, the same one however often it is called.

        Long sequences go through in parts of the batch, because the activations of all would take all the memory.
        """
        parts = self._tokens[:, :position].split(self._rows(position))

        def step() -> Tensor:
            return draw(torch.cat([self._model.prefill(part)[0] for part in parts]), self._u)

        return step

    def _rows(self, position: int) -> int:
        """Return how many rows go through together at this position."""
        config = self._model.config.model
        return max(1, _ROOM // (4 * max(1, position) * max(4 * config.d_model, config.d_ff)))


def input_lengths(model: DensityModel, length: int) -> list[int]:
    """Return how many inputs each of `ssm_layers` reads one after another in a sequence of `length` tokens.

    A coarse level of a multi-scale stack has one input for several tokens, and so has a stack of whole pixels, some of
    whose layers read single rows or columns.
    """
    pool, modules = model.config.model.pool, dict(model.named_modules())
    lengths = []
    for name, layer in modules.items():
        if isinstance(layer, SSMLayer):
            inputs = length // (math.prod(pool[: name.split(".").count("inner")]) * model.config.tokens_per_input)
            around = modules[name.rpartition(".")[0]]
            if isinstance(around, Axial):
                inputs = min(inputs, around.raster.width if around.axis == "row" else around.raster.height)
            lengths.append(inputs)
    return lengths


def parameter_count(config: DensityConfig) -> int:
    """Return the number of trained parameters of the model with this configuration."""
    with torch.random.fork_rng(devices=[]):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


def matched_transformer(config: DensityConfig) -> DensityConfig:
    """Return the Transformer of the same width and depth whose parameter count is nearest to this model's.

    It attends to all tokens before. The width of its feed-forward sub-block, in which the count is linear, is chosen
    to match. A model so small that attention alone has more parameters gets the smallest Transformer, d_ff = 1.

    For a multi-scale stack, width and depth are those of the finest level: every layer reads every token, the cache
    is as small as it can be, and the parameters of the coarser levels go into the feed-forward. A model of whole
    pixels is compared with a Transformer that reads the values of pixels one by one.
    """
    wanted, old = parameter_count(config), config.model
    plain = ModelConfig(
        d_model=old.d_model, n_layers=old.n_layers, mixers_per_block=old.mixers_per_block, cutoffs=old.cutoffs
    )
    heads = max(h for h in range(1, old.n_heads + 1) if old.d_model % h == 0)

    def with_d_ff(d_ff: int) -> DensityConfig:
        return replace(config, model=replace(plain, mixer="attention", n_heads=heads, d_ff=d_ff))

    # The count is linear in d_ff, so two of them say what each further unit adds.
    least, more = (parameter_count(with_d_ff(d_ff)) for d_ff in (1, 2))
    return with_d_ff(max(1, 1 + round((wanted - least) / (more - least))))


def mean_over_positions(
    seconds_at: Callable[[int], float], length: int, enough: Callable[[], bool]
) -> tuple[float, dict[int, float]]:
    """Return the mean of a cost over positions 0 .. length - 1, by the trapezoid rule, and the costs it is made of.

    First, last and middle are always measured; then the middles of the gaps, until there are nine in all or `enough`
    says so.
    """
    order = [0, length - 1] + [round((length - 1) * i / 2**k) for k in (1, 2, 3) for i in range(1, 2**k, 2)]
    costs: dict[int, float] = {}
    for i, position in enumerate(order):
        if i >= 3 and enough():
            break
        if position not in costs:
            costs[position] = seconds_at(position)
    points = sorted(costs.items())
    if len(points) == 1:
        return points[0][1], costs
    area = math.fsum((q - p) * (a + b) / 2 for (p, a), (q, b) in pairwise(points))
    return area / (length - 1), dict(points)
