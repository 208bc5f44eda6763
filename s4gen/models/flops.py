"""Counting the floating-point operations of a model from the shapes of its layers.

The convention is that of the literature (arXiv 2204.02311, appendix B): matrix products of the model count, with a
multiplication and an addition for each term. Everything else is left out: norms, activations, taps and recurrences with
a diagonal matrix; what does not grow with the batch (kernels of state space layers, the optimiser); and what is
computed a second time to save memory.

For the gradient, each product of the forward pass needs two more. A first layer that reads data needs only one, because
nobody wants the gradient of the data. The state after the last input, which a forward pass returns, has no gradient in
training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from s4gen.config import AudioLayout
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.attention import CausalAttention
from s4gen.models.axial import Axial
from s4gen.models.bidirectional import Bidirectional
from s4gen.models.blocks import Block, FeedForward, GatedOutput, Skip
from s4gen.models.categorical import CategoricalHead
from s4gen.models.density import DensityModel
from s4gen.models.embedding import AudioEmbedding
from s4gen.models.h3 import H3
from s4gen.models.lssl_dss import LSSL
from s4gen.models.mixture import MixtureHead
from s4gen.models.pixels import PixelModel
from s4gen.models.predictor import Predictor
from s4gen.models.sashimi import Sashimi
from s4gen.models.spectrum import frame_stride
from s4gen.models.ssm_layers import S4, SSMLayer
from s4gen.models.wavenet import WaveNet
from s4gen.ssm.block_form import block_lengths


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one sequence."""

    forward: int
    """Operations for scoring the sequence."""
    backward: int
    """Operations for the gradient, without the forward pass."""

    @property
    def training(self) -> int:
        """Operations of a training step for each sequence in it."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.forward * times, self.backward * times)


NOTHING = Flops(0, 0)


def count_flops(model: DensityModel | Predictor, length: int) -> Flops:
    """Count the operations of the loss and of its gradient for one sequence of `length` tokens or positions.

    The model may be on the meta device. Of an adaptive softmax only the first part counts, which every token needs; the
    other parts depend on the text.
    """
    if isinstance(model, Predictor):
        return _predictor(model, length)
    # The stack of a whole-pixel model runs once per pixel, not once per token.
    positions = length // model.channels if isinstance(model, PixelModel) else length
    stack = _sum(_layer(block, positions) for block in model.blocks)
    return _inputs(model, positions) + stack + _head(model.head, positions)


def _predictor(model: Predictor, length: int) -> Flops:
    """Count a predictor on a row of `length` positions; its head runs once, for the whole row."""
    layout = model.config.layout
    if model.config.reader == "spectrum" and isinstance(layout, AudioLayout):
        length = -(-length // frame_stride(layout.rate))
    inputs = _of_data(model.embedding, length) if isinstance(model.embedding, nn.Linear) else NOTHING
    stack = _sum(_layer(block, length) for block in model.blocks)
    return inputs + stack + _head(model.head, 1)


def _sum(parts: Iterable[Flops]) -> Flops:
    return sum(parts, NOTHING)


def _product(rows: int, inner: int, columns: int, times: int = 1) -> Flops:
    """Count `times` products of (rows x inner) and (inner x columns), with the gradients of both factors."""
    forward = 2 * rows * inner * columns * times
    return Flops(forward, 2 * forward)


def _linear(linear: nn.Linear, rows: int) -> Flops:
    return _product(rows, linear.in_features, linear.out_features)


def _of_data(linear: nn.Linear, rows: int) -> Flops:
    """Count a layer that reads data, which needs no gradient of its input."""
    forward = _linear(linear, rows).forward
    return Flops(forward, forward)


def _inputs(model: DensityModel, positions: int) -> Flops:
    """Count what stands before the stack. Looking up rows of a table is no product."""
    if isinstance(model, PixelModel):
        return _of_data(model.stem.linear, positions)
    embedding = model.get_submodule("embedding")
    if isinstance(embedding, AudioEmbedding) and embedding.samples is not None:
        return _of_data(embedding.samples, positions)
    if isinstance(embedding, AdaptiveEmbedding):
        return _sum(_product(positions, p.shape[1], p.shape[0]) for p in embedding.projections)
    return NOTHING


def _head(head: nn.Module, positions: int) -> Flops:
    """Count the products that give logits, or parameters of the mixture, at all positions."""
    if isinstance(head, nn.Linear):
        return _linear(head, positions)
    if isinstance(head, MixtureHead):
        return _linear(head.linear, positions)
    if isinstance(head, CategoricalHead):
        values = positions * head.channels
        hidden = _linear(head.linear, values) if head.value is not None else NOTHING
        return hidden + _linear(head.head, values)
    assert isinstance(head, AdaptiveSoftmax)
    projection, weight, _ = next(iter(head.parts()))
    first = NOTHING if projection is None else _product(positions, *projection.shape)
    return first + _product(positions, weight.shape[1], weight.shape[0])


def _layer(layer: nn.Module, length: int, entered: bool = False) -> Flops:
    """Count a module of the stack, or one inside of it, on `length` inputs.

    `entered` says that it starts from a given state, whose contribution to the outputs costs something.
    """
    if isinstance(layer, Block):
        parts = [layer.mixer, layer.output, layer.feed_forward]
        return _sum(_layer(part, length, entered) for part in parts if part is not None)
    if isinstance(layer, Sashimi):
        return _levels(layer, length)
    if isinstance(layer, Axial):
        along, across = layer.raster.width, layer.raster.height
        if layer.axis == "column":
            along, across = across, along
        return _layer(layer.layer, along) * across
    if isinstance(layer, Bidirectional):
        return _layer(layer.forward_layer, length) + _layer(layer.backward_layer, length)
    if isinstance(layer, H3):
        return _linear(layer.qkv, length) + _linear(layer.out, length) + _state_space(layer.ssm, length, entered=True)
    if isinstance(layer, CausalAttention):
        return _linear(layer.qkv, length) + _linear(layer.out, length) + _scores(layer, length)
    if isinstance(layer, SSMLayer):
        return _state_space(layer, length, entered)
    if isinstance(layer, WaveNet | GatedOutput | FeedForward | Skip | nn.Identity):
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        return _sum(_linear(linear, length) for linear in linears)
    return _by_its_own_count(layer, length)


def _by_its_own_count(layer: nn.Module, length: int) -> Flops:
    """Return what a mixer says of itself by its method `flops`, with the gradients of both factors of each product.

    Raises:
        TypeError: it has no such method. To guess zero would falsify the utilisation and `s4gen info` in silence.
    """
    if not hasattr(layer, "flops"):
        raise TypeError(
            f"the operations of {type(layer).__name__} are not known: give it a method flops(length) (see "
            "s4gen.models.mixers)"
        )
    forward: int = layer.flops(length)  # type: ignore[operator]
    return Flops(forward, 2 * forward)


def _levels(level: Sashimi, length: int) -> Flops:
    """Count one level of a multi-scale stack and all coarser ones."""
    found = _sum(_layer(block, length, entered=True) for block in (*level.down, *level.up))
    if level.pool is None or level.inner is None:
        return found
    windows = length // level.pool.stride
    found = found + _linear(level.pool.down, windows) + _linear(level.pool.up, windows)
    return found + _levels(level.inner, windows) if windows else found


def _state_space(layer: SSMLayer, length: int, entered: bool) -> Flops:
    """Count the operations of `ssm.block_form.block_convolve`.

    What a given state adds to the outputs is a product of its own only where all inputs are one block; with several
    blocks, it goes through the products that pass the state from block to block anyway.
    """
    T, last = block_lengths(length)
    H, N, blocks = layer.d_model, layer.d_state, -(-length // T)
    found = _product(blocks * T, T, 1, H)
    if blocks > 1:
        found = found + _product(blocks * T, N, 1, H)
    if blocks > 1 or entered:
        found = found + _product(blocks * T, N, 1, H)
    final = _product(last, N, 1, H).forward
    if isinstance(layer, S4 | LSSL):  # their transitions are dense
        found = found + _product(blocks - 1, N, N, H)
        final += _product(1, N, N, H).forward
    return found + Flops(final, 0)


def _scores(layer: CausalAttention, length: int) -> Flops:
    """Count scores and weighted values. Without a window all pairs count, though a causal kernel may skip half."""
    d_model = layer.n_heads * layer.d_head
    if not layer.window:
        return _product(length, d_model, length, 2)
    found = NOTHING
    for first in range(0, length, layer.window):
        queries = min(layer.window, length - first)
        keys = min(first + queries, queries + layer.window - 1)
        found = found + _product(queries, d_model, keys, 2)
    return found
