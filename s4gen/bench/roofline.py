"""The roofline: the least time that a step can take on this machine, from what it has to move and to compute.

    limit = max(bytes moved / bandwidth, operations / rate)

(Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".) Bytes and operations are
counted from the model's shapes: every weight and constant is read, every state read and written, and every weight
takes a multiplication and an addition for each row. Activations are left out as negligible, and so is a mixture, from
which one can draw by looking at few of its values. Bandwidth and rate are what this machine is measured to reach, in
the same run and with as many threads. The bandwidth is that over a buffer as large as what a step comes back to in the
next, so that a model that fits into the cache is judged by the cache.

At batches whose states leave the cache it can pay to take many steps with some of the rows before it is the others'
turn: the weights are then read once per step for each such group, and its states stay in the cache. The limit is that
of the best grouping.

What a coarse level of a multi-scale stack does counts by how often it runs, and so does the stack of whole pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from s4gen.machine.timing import best_seconds, product_rate
from s4gen.models.density import DensityModel
from s4gen.sampling.plan import (
    SSM,
    Channel,
    Down,
    Linear,
    Mixture,
    Neighbours,
    Norm,
    Operation,
    Pixel,
    Plan,
    Samples,
    Shift,
    Taps,
    Up,
)

PRECISIONS = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of a weight, by precision."""

SMALLEST_BUFFER, LARGEST_BUFFER = 2**21, 2**28
"""Bytes of a buffer whose bandwidth is measured: below, the clock and the start of threads show; above, nothing new."""
SECONDS_PER_RATE = 0.1
"""Seconds for which each bandwidth and each rate is measured."""

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """The mean work of one step: bytes that it has to move, and floating-point operations."""

    weights: int
    """Numbers in the matrices, which are read once for all rows together, in the engine's precision."""
    scales: int
    """Rows of the matrices; int8 weights have a float32 scale for each."""
    constants: int
    """Bytes of everything else that is read once for all rows: biases, norms, coefficients of the recurrence."""
    kept: int
    """Bytes kept for each row of the batch from step to step."""
    moved: int
    """Bytes read or written for each row; a state is both read and written."""
    operations: int
    """Floating-point operations for each row."""
    idle_weights: int = 0
    """Numbers in the matrices of levels that do not run in the mean step: they need room, but are not read."""
    idle_constants: int = 0
    """Bytes of everything else in those levels."""

    def shared(self, precision: str) -> int:
        """Return the bytes that a step reads once for all rows together."""
        return self.weights * PRECISIONS[precision] + self.constants + _FLOAT * self.scales * (precision == "int8")

    def held(self, precision: str) -> int:
        """Return the bytes shared by all rows that are read in this step or in another."""
        return self.shared(precision) + self.idle_weights * PRECISIONS[precision] + self.idle_constants


_NOTHING = Work(0, 0, 0, 0, 0, 0)


def count(plan: Plan) -> Work:
    """Return the mean work of one step of a plan. The embedding is left out: a step reads a few of its rows."""
    every = [1]  # steps between two runs of each level that we are inside of; the present one is last
    works: list[tuple[Work, int]] = []
    for operation in plan.operations:
        if isinstance(operation, Up | Mixture | Channel):
            every.pop()
        works.append((_work(operation), every[-1]))
        if isinstance(operation, Down | Pixel):
            every.append(every[-1] * (operation.stride if isinstance(operation, Down) else operation.channels))

    def mean(name: str) -> int:
        return round(sum(getattr(work, name) / often for work, often in works))

    def total(name: str) -> int:
        return sum(getattr(work, name) for work, _ in works)

    return Work(
        weights=mean("weights"),
        scales=mean("scales"),
        constants=mean("constants"),
        kept=total("kept"),
        moved=mean("moved"),
        operations=mean("operations"),
        idle_weights=total("weights") - mean("weights"),
        idle_constants=total("constants") - mean("constants"),
    )


def _work(operation: Operation) -> Work:
    """Return the work of doing one operation once.

    A complex mode (two numbers of state) takes 14 floating-point operations: a s is 6, + B h is 4, and the real part
    of C s is 4. Each rank of p (q s) adds 8.
    """
    match operation:
        case Norm(weight, bias):
            return replace(_NOTHING, constants=_FLOAT * (weight.numel() + bias.numel()))
        case Linear(weight, bias):
            operations, constants = 2 * weight.numel(), _FLOAT * bias.numel()
            return Work(weight.numel(), len(weight), constants, kept=0, moved=0, operations=operations)
        case SSM(a, B, C, D, p, q, gated, lanes=lanes):
            constants, state = _FLOAT * sum(tensor.numel() for tensor in (a, B, C, D, p, q)), _FLOAT * B.numel()
            operations = (7 + 4 * len(p)) * B.numel() + gated * D.numel()
            return Work(0, 0, constants, kept=lanes * state, moved=2 * state, operations=operations)
        case Samples(_, count):
            return replace(_NOTHING, kept=_FLOAT * count, moved=_FLOAT * count)
        case Shift(taps):
            # The keys before the present one, and after all taps the product with v.
            keys, operations = _FLOAT * taps[:, 1:].numel(), 2 * taps.numel() + len(taps)
            return Work(0, 0, _FLOAT * taps.numel(), kept=keys, moved=2 * keys, operations=operations)
        case Down(stride, width):
            # A window and what is pending: each vector in them is written once, and read once.
            return replace(_NOTHING, kept=2 * stride * _FLOAT * width, moved=4 * _FLOAT * width)
        case Pixel(_, channels, _, history, kept):
            return replace(_NOTHING, kept=_FLOAT * (history * channels + sum(kept)), moved=_FLOAT)
        case Neighbours(offsets, channels):
            return replace(_NOTHING, moved=_FLOAT * len(offsets) * channels)
        case Taps(weight, width):
            # Each of the features around is read, and the present one is written.
            features, count = weight.shape[1], weight.numel()
            moved = _FLOAT * (count + features)
            return Work(0, 0, _FLOAT * count, kept=_FLOAT * (width + 1) * features, moved=moved, operations=2 * count)
        case Mixture(components, channels):
            numbers = components * (1 + 2 * channels + channels * (channels - 1) // 2) + channels
            return replace(_NOTHING, moved=_FLOAT * numbers)
        case Channel(width=width):
            return replace(_NOTHING, moved=_FLOAT * width)
    return _NOTHING


def transformer_work(model: DensityModel, length: int, precision: str) -> Work:
    """Return the mean work of a step of a Transformer with a key-value cache, over a sequence of `length` tokens.

    Weights and cache have the given precision.
    """
    # A step reads single rows of the embedding; but for text the head shares its table, and reads all of it.
    head = set(model.head.parameters())
    read = [p for name, p in model.named_parameters() if p in head or not name.startswith("embedding.")]
    weights = sum(p.numel() for p in read if p.ndim > 1)
    vectors = sum(p.numel() for p in read if p.ndim == 1)
    config = model.config.model
    layers = config.n_layers * config.mixers_per_block
    cached = layers * 2 * config.d_model * (length // 2)  # keys and values, half of the sequence on average
    size = PRECISIONS[precision]
    # A key is multiplied with the query, a value with its weight, once each.
    return Work(weights, 0, size * vectors, size * cached, size * cached, 2 * weights + 2 * cached)


@dataclass(frozen=True)
class Rates:
    """The bandwidths and rates that a machine reaches."""

    bandwidth: Mapping[int, float]
    """Bytes per second of reading a buffer again and again, by its size in bytes."""
    rate: Mapping[str, float]
    """Floating-point operations per second of a matrix product, by the precision of the weights."""


@dataclass(frozen=True)
class Limit:
    """The least time that a step for the whole batch can take."""

    limit_ms: float
    bytes_per_step: int
    operations_per_step: int
    bandwidth: float
    """Bytes per second."""
    rate: float
    """Operations per second."""
    rows_together: int
    """Rows of the batch that take steps together; the weights are read once for each such group."""


def groups(batch: int) -> list[int]:
    """Return the group sizes that `limit` tries: the whole batch, its half, and so on down to one row."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def working_set(work: Work, precision: str, rows: int) -> int:
    """Return the bytes that a step for `rows` rows comes back to in the next, clipped to the sizes measured."""
    return min(max(work.held(precision) + rows * work.kept, SMALLEST_BUFFER), LARGEST_BUFFER)


def limit(work: Work, precision: str, batch: int, rates: Rates) -> Limit:
    """Return the limit of a step for `batch` rows, in the grouping of them that is fastest."""

    def grouped_by(rows: int) -> Limit:
        moved = -(-batch // rows) * work.shared(precision) + batch * work.moved
        bandwidth = rates.bandwidth[working_set(work, precision, rows)]
        operations, rate = batch * work.operations, rates.rate[precision]
        slowest = max(moved / bandwidth, operations / rate)
        return Limit(1e3 * slowest, moved, operations, bandwidth, rate, rows)

    return min(map(grouped_by, groups(batch)), key=lambda found: found.limit_ms)


Extra = Callable[[int], tuple[float, float]]
"""Another way to measure: bytes of a buffer -> bytes per second of reading it, and float32 operations per second."""


def measure_rates(
    sizes: Iterable[int],
    precisions: Iterable[str],
    device: torch.device,
    budget: float = SECONDS_PER_RATE,
    extra: Extra | None = None,
) -> Rates:
    """Measure this machine, with PyTorch's present number of threads.

    The bandwidth is that of summing a float32 buffer, threads side by side, in the best of several passes: PyTorch's
    sum reads as fast as the memory gives, while its copies and matrix-vector products do not. The rate is that of the
    best of square matrix products of a few sizes; for bf16 and int8 weights it is that of products of bf16 matrices,
    where they are faster.

    Args:
        sizes: bytes of the buffers to read.
        precisions: keys of PRECISIONS.
        budget: seconds for each number.
        extra: measures both in another way; the better of the two counts.
    """
    precisions = set(precisions)
    rate = product_rate(torch.float32, device, budget)
    bandwidth = {}
    for size in sorted(set(sizes)):
        bandwidth[size] = _read_bandwidth(size, device, budget)
        if extra is not None:
            other_bandwidth, other_rate = extra(size)
            bandwidth[size], rate = max(bandwidth[size], other_bandwidth), max(rate, other_rate)
    narrow = max(rate, product_rate(torch.bfloat16, device, budget)) if precisions - {"fp32"} else rate
    return Rates(bandwidth, {precision: rate if precision == "fp32" else narrow for precision in precisions})


def rates_reached(by: Extra, sizes: Iterable[int], precisions: Iterable[str]) -> Rates:
    """Measure a machine by `by` alone, whose products are float32 whatever the precision of the weights."""
    found = {size: by(size) for size in sorted(set(sizes))}
    fastest = max(rate for _, rate in found.values())
    return Rates({size: bandwidth for size, (bandwidth, _) in found.items()}, dict.fromkeys(precisions, fastest))


def _read_bandwidth(size: int, device: torch.device, budget: float) -> float:
    buffer = torch.ones(size // _FLOAT, device=device)
    return buffer.numel() * _FLOAT / best_seconds(buffer.sum, device, budget)
