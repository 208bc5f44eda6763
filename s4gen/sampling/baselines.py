"""What the recurrent mode is measured against: other ways to generate, none made slower than it is.

- conv: our own model, the whole prefix by convolution again for every token;
- transformer: attention in the place of the state space layers, its keys and values cached (see `cached`);
- transformer-no-cache: the same, the whole prefix again for every token.

Each way is asked for one step at one position: its `at(position)` is a function that generates one more token for every
sequence of the batch, the `position` tokens before it being known. Embedding, head (of the last position only) and the
draw are part of the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from s4gen.config import DensityConfig
from s4gen.models.density import DensityModel
from s4gen.sampling.randomness import draw


class PrefixAgain:
    """The whole prefix through the parallel form of the model for every token."""

    def __init__(self, model: DensityModel, batch: int, length: int) -> None:
        device = model.device
        self._model = model
        self._tokens = torch.randint(model.config.layout.vocab, (batch, length), device=device)
        self._u = torch.rand(batch, dtype=torch.float64, device=device)

    def at(self, position: int) -> Callable[[], Tensor]:
        """A function that generates the token at this position, the same one however often it is called."""
        prefix = self._tokens[:, :position]

        def step() -> Tensor:
            logits, _ = self._model.prefill(prefix)
            return draw(logits, self._u)

        return step


def keep_kernels(model: DensityModel) -> None:
    """Let the state space layers of this model, whose parameters are now fixed, build each kernel only once.

    A forward pass builds its kernel anew, because in training the parameters have changed. Convolution run
    again for each token need not do that, so the benchmark does not count it.
    """
    for mixer in mixers(model):
        mixer.block_maps = functools.cache(mixer.block_maps)


def mixers(model: DensityModel) -> list[Any]:
    """The sequence layer of every block; `nn.ModuleList` has no type for them."""
    blocks: Iterable[Any] = model.blocks
    return [block.mixer for block in blocks]


def parameter_count(config: DensityConfig) -> int:
    """Number of trained parameters of the model with this configuration."""
    with torch.random.fork_rng(devices=[]):
        return sum(parameter.numel() for parameter in DensityModel(config).parameters())


def matched_transformer(config: DensityConfig) -> DensityConfig:
    """The Transformer of the same width and depth whose parameter count is nearest to this model's. It sees all tokens.

    The width of its feed-forward sub-block is what gives; the count is linear in it. A model so small that
    attention alone has more parameters gets the Transformer with the least there is, d_ff = 1.
    """
    wanted = parameter_count(config)
    heads = max(h for h in range(1, config.model.n_heads + 1) if config.model.d_model % h == 0)

    def with_d_ff(d_ff: int) -> DensityConfig:
        return replace(config, model=replace(config.model, mixer="attention", n_heads=heads, d_ff=d_ff, window=0))

    least, more = (parameter_count(with_d_ff(d_ff)) for d_ff in (1, 2))
    return with_d_ff(max(1, 1 + round((wanted - least) / (more - least))))


def mean_over_positions(
    seconds_at: Callable[[int], float], length: int, enough: Callable[[], bool]
) -> tuple[float, dict[int, float]]:
    """Mean of a cost over positions 0 .. length - 1, by the trapezoid rule over a few of them, and those.

    First, last and middle are always measured, then the middles of the gaps, nine in all, until `enough`.
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
