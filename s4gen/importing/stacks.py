"""Read the residual stacks of state-spaces/s4, plain ones and SaShiMi, as state dicts of our models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.importing.kernels import Kernel, read_kernel, version_of
from s4gen.importing.ledger import Ledger
from s4gen.importing.options import Options


@dataclass
class Stack:
    """A stack as far as it has been read: the tensors, the kernels, and the choices that all blocks must share."""

    ledger: Ledger
    options: Options
    version: str
    dt_transform: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Tensors by their names in a `TokenModel`."""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    """State space layers by the reference's prefix of their blocks."""
    scalar_norm: bool | None = None
    """Whether norms have one scale and one shift for all features; None before the first norm."""
    widths: dict[str, int] = field(default_factory=dict)
    """d_model of each block with a state space layer, by the reference's prefix."""

    def mixer(self, theirs: str, ours: str) -> None:
        """Read a block with a state space layer."""
        kernel = read_kernel(self.ledger, theirs, self.version, self.options, self.dt_transform)
        H = len(kernel.parameters["D"])
        self.kernels[theirs], self.widths[theirs] = kernel, H
        for name, tensor in kernel.parameters.items():
            self.tensors[f"{ours}.mixer.{name}"] = tensor
        self.linear(f"{theirs}.layer.output_linear.0", f"{ours}.output.linear", 2 * H, H)
        self.norm(theirs, f"{ours}.norm", H)

    def feed_forward(self, theirs: str, ours: str, width: int) -> int:
        """Read a block with a feed-forward, which is a part of one of our blocks; return its hidden width."""
        hidden = self.ledger.shape(f"{theirs}.layer.ff.0.0.weight")[0]
        self.linear(f"{theirs}.layer.ff.0.0", f"{ours}.feed_forward.up", hidden, width)
        self.linear(f"{theirs}.layer.ff.2", f"{ours}.feed_forward.down", width, hidden)
        self.norm(theirs, f"{ours}.feed_forward.norm", width)
        return hidden

    def linear(self, theirs: str, ours: str, n_out: int, n_in: int) -> None:
        """Read weight and bias of a linear map; the reference may store it as a convolution of one tap."""
        self.tensors[f"{ours}.weight"] = self.ledger.take(f"{theirs}.weight", n_out, n_in)
        self.tensors[f"{ours}.bias"] = self.ledger.take(f"{theirs}.bias", n_out)

    def norm(self, theirs: str, ours: str, width: int) -> None:
        """Read the norm of a block; where the reference runs transposed, it has two scalars, m (shift) and s (scale).

        Raises:
            UserError: it is a batch norm, or of another kind than the norms before it.
        """
        scalar = f"{theirs}.norm.norm.m" in self.ledger
        if self.scalar_norm not in (None, scalar):
            raise UserError(f"{self.ledger.where}: {theirs} has another kind of norm than the blocks before it")
        if any(f"{theirs}.norm.norm.running_{name}" in self.ledger for name in ("mean", "var")):
            raise UserError(
                f"{self.ledger.where}: {theirs}.norm is a batch norm, which no density model has; expected a layer norm"
            )
        self.scalar_norm = scalar
        if scalar:
            for name in ("m", "s"):
                self.tensors[f"{ours}.{name}"] = self.ledger.take(f"{theirs}.norm.norm.{name}", 1)
        else:
            self.layer_norm(f"{theirs}.norm.norm", ours, width)

    def layer_norm(self, theirs: str, ours: str, width: int) -> None:
        """Read a layer norm with a scale and a shift for each feature."""
        for name in ("weight", "bias"):
            self.tensors[f"{ours}.{name}"] = self.ledger.take(f"{theirs}.{name}", width)


@dataclass(frozen=True)
class Shape:
    """The numbers of a stack that `ModelConfig` needs."""

    d_model: int
    n_layers: int
    """Groups of mixers and a feed-forward in a plain stack; in SaShiMi the blocks of each level."""
    mixers: int
    """Mixers per block."""
    d_ff: int
    """Hidden width of the feed-forward at the finest level; 0 without one."""
    pool: tuple[int, ...]
    """Strides of SaShiMi's pooling, the finest level first; empty for a plain stack."""
    expand: int
    """Ratio of the widths of one level and the next finer one."""


def begin(ledger: Ledger, options: Options, dt_transform: str) -> Stack:
    """Return an empty stack that reads in the layout of the file's version."""
    return Stack(ledger, options, version_of(ledger), dt_transform)


def read_stack(stack: Stack) -> Shape:
    """Read all blocks and the final norm into `stack.tensors` (`blocks.*` and `norm.*`), and return their numbers.

    Raises:
        UserError: the blocks differ from one another, or are not in an order that s4gen has.
    """
    keys = stack.ledger.names
    if any(key.startswith("model.c_layers.") for key in keys):
        return _sashimi(stack)
    return _isotropic(stack)


def _isotropic(stack: Stack) -> Shape:
    """Read a plain stack, whose blocks all have the same width."""
    kinds = _kinds(stack.ledger, "model.layers")
    # The reference counts a feed-forward as a block of its own; the blocks before the first one make up the group that
    # has to repeat, and a group is one of our layers.
    mixers = next((i for i, kind in enumerate(kinds) if kind == "ff"), 0)
    group = ["ssm"] * mixers + ["ff"] if mixers else ["ssm"]
    mixers = mixers or 1
    n_layers = len(kinds) // len(group)
    if kinds != group * n_layers or not kinds:
        raise UserError(
            f"{stack.ledger.where}: the blocks of model.layers are {' '.join(kinds)}: expected state space layers "
            "alone, or the same number of them before each feed-forward"
        )
    d_ff, width = 0, 0
    for i, kind in enumerate(kinds):
        # Our blocks are counted by mixers; the feed-forward belongs to the last one of its group.
        theirs, ours = f"model.layers.{i}", f"blocks.{i // len(group) * mixers + min(i % len(group), mixers - 1)}"
        if kind == "ssm":
            stack.mixer(theirs, ours)
            width = _same(stack, "d_model", width, stack.widths[theirs])
        else:
            d_ff = _same(stack, "width of the feed-forward", d_ff, stack.feed_forward(theirs, ours, width))
    _final_norm(stack, width)
    return Shape(width, n_layers, mixers, d_ff, (), 2)


def _final_norm(stack: Stack, width: int) -> None:
    """Read the final norm of a plain stack, which has one exactly if it is pre-norm."""
    scalar = "model.norm.norm.m" in stack.ledger
    found = scalar or "model.norm.norm.weight" in stack.ledger
    before = stack.options.flag("prenorm", found)
    if before != found:
        there = "there is a" if found else "there is no"
        raise UserError(
            f"{stack.options.source}: prenorm = {str(before).lower()}, but {there} final norm, model.norm, in the "
            "weights"
        )
    if found:
        stack.norm("model", "norm", width)


def _sashimi(stack: Stack) -> Shape:
    """Read SaShiMi: d_layers pool down, c_layers are the centre, u_layers pool up and hold the finer levels' blocks."""
    ledger, where = stack.ledger, stack.ledger.where
    if any(key.startswith("model.d_layers.") and ".linear." not in key for key in ledger.names):
        raise UserError(f"{where}: model.d_layers has blocks, like a U-Net: expected pooling alone, as in SaShiMi")
    n_pools = 1 + max(int(m[1]) for key in ledger.names if (m := re.match(r"model\.d_layers\.(\d+)\.", key)))
    width = ledger.shape("encoder.0.weight" if "encoder.0.weight" in ledger else "encoder.weight")[1]
    widths, pool = [width], []
    for i in range(n_pools):
        wide, joined = _pool_weight(ledger, f"model.d_layers.{i}")
        if joined % widths[-1]:
            raise UserError(f"{where}: model.d_layers.{i} reads {joined} features: expected a multiple of {widths[-1]}")
        pool.append(joined // widths[-1])
        widths.append(wide)
    expand = widths[1] // width
    if any(wide != narrow * expand for narrow, wide in pairwise(widths)):
        raise UserError(f"{where}: the levels are {widths} wide: expected the same ratio between each and the next")
    ratio: int = 0
    depth = 0
    for level in range(n_pools, -1, -1):  # from the coarsest level, the centre, to the finest
        ours = "blocks.0" + ".inner" * level
        # In u_layers the coarsest level comes first, and the first entry of each is its pooling map.
        theirs, first = ("model.c_layers", 0) if level == n_pools else (f"model.u_layers.{n_pools - 1 - level}", 1)
        if level < n_pools:
            _pooling(stack, level, f"{theirs}.0", ours, pool[level], widths)
        kinds = _kinds(ledger, theirs, first)
        step = 2 if "ff" in kinds else 1
        if kinds != ["ssm", "ff"][:step] * (len(kinds) // step) or not kinds:
            raise UserError(f"{where}: the blocks of {theirs} are {' '.join(kinds)}: expected ssm, or ssm ff, repeated")
        depth = _same(stack, "number of layers", depth, len(kinds) // step)
        for i, kind in enumerate(kinds):
            block, mine = f"{theirs}.{i + first}", f"{ours}.up.{i // step}"
            if kind == "ssm":
                stack.mixer(block, mine)
                if stack.widths[block] != widths[level]:
                    raise UserError(f"{where}: {block} has {stack.widths[block]} features, expected {widths[level]}")
            else:
                hidden = stack.feed_forward(block, mine, widths[level])
                ratio = _same(stack, "feed-forward at the finest level", ratio, hidden // expand**level)
    stack.layer_norm("model.norm", "norm", width)
    return Shape(width, depth, 1, ratio, tuple(pool), expand)


def _pool_weight(ledger: Ledger, prefix: str) -> tuple[int, int]:
    """Return (outputs, inputs) of a linear map, with or without weight normalisation."""
    key = f"{prefix}.linear.weight_v"
    return ledger.shape(key if key in ledger else f"{prefix}.linear.weight")[:2]  # type: ignore[return-value]


def _pooling(stack: Stack, level: int, up: str, ours: str, stride: int, widths: list[int]) -> None:
    """Read the maps between a level and the next coarser one.

    A window is one vector. In the reference's its positions run fastest (feature, position), in ours the features do
    (position, feature), so the axes of the weights are exchanged.
    """
    narrow, wide = widths[level], widths[level + 1]
    weight, bias = _normalised(stack.ledger, f"model.d_layers.{level}", wide, narrow * stride)
    stack.tensors[f"{ours}.pool.down.weight"] = (
        weight.view(wide, narrow, stride).transpose(1, 2).flatten(1).contiguous()
    )
    stack.tensors[f"{ours}.pool.down.bias"] = bias
    weight, bias = _normalised(stack.ledger, up, narrow * stride, wide)
    stack.tensors[f"{ours}.pool.up.weight"] = (
        weight.view(narrow, stride, wide).transpose(0, 1).flatten(0, 1).contiguous()
    )
    stack.tensors[f"{ours}.pool.up.bias"] = bias.view(narrow, stride).T.flatten()


def _normalised(ledger: Ledger, prefix: str, n_out: int, n_in: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias; a normalised weight is g v / |v| for each row, in float64."""
    bias = ledger.take(f"{prefix}.linear.bias", n_out)
    if f"{prefix}.linear.weight_v" not in ledger:
        return ledger.take(f"{prefix}.linear.weight", n_out, n_in), bias
    v = ledger.take(f"{prefix}.linear.weight_v", n_out, n_in, derived=True).double()
    g = ledger.take(f"{prefix}.linear.weight_g", n_out, 1, derived=True).double()
    return g * v / torch.linalg.vector_norm(v, dim=1, keepdim=True), bias


def _kinds(ledger: Ledger, prefix: str, first: int = 0) -> list[str]:
    """Return "ssm" or "ff" for each block prefix.i with i = first, first + 1, ...

    Raises:
        UserError: a number is missing between them.
    """
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.layer\.(ff\.)?")
    found = {int(m[1]): "ff" if m[2] else "ssm" for key in ledger.names if (m := pattern.match(key))}
    missing = sorted(set(range(first, max(found, default=first - 1) + 1)) - found.keys())
    if missing:
        raise UserError(
            f"{ledger.where}: the block {prefix}.{missing[0]} is missing, where there is {prefix}.{max(found)}"
        )
    return [found[i] for i in sorted(found)]


def _same(stack: Stack, what: str, known: int, found: int) -> int:
    """Return the number `found` in a block, which must be the `known` one of the blocks before (0: none yet)."""
    if known not in (0, found):
        raise UserError(
            f"{stack.ledger.where}: the {what} is {known} in one block and {found} in another: expected one"
        )
    return found
