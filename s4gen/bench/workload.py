"""The values that the benchmark of generation works on: a workload to time, and the measurement that came out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from s4gen.bench.loss import Loss
from s4gen.bench.roofline import Limit
from s4gen.config import DensityConfig


@dataclass(frozen=True)
class GenerationWorkload:
    """One way to generate at one batch size."""

    way: str
    """The name of an engine, or one of `ways.CACHED` or `ways.AGAIN`."""
    config: DensityConfig
    """The model that generates: ours, or the Transformer for the ways that are one."""
    checkpoint: Path | None
    """Folder of its weights; None: random ones, which are as fast."""
    batch: int
    """Sequences that are generated side by side."""
    lengths: tuple[int, ...]
    """Tokens per sequence. Where a cache grows, each length is measured; for other ways the first alone."""
    device: str
    threads: int
    """Threads that PyTorch and the engines may use."""
    budget: float
    """Seconds to measure for, start-up apart."""
    positions: tuple[int, ...] = ()
    """Positions at which the cost of a single token is measured as well."""
    loss: bool = False
    """Whether to measure what a lossy engine loses."""
    compiled: bool = True
    """Whether to compile the Transformer with a cache, which takes up to a minute."""


@dataclass(frozen=True)
class GenerationMeasurement:
    """The cost of one way to generate at one batch size and length. Numbers are NaN where it did not run."""

    way: str
    batch: int
    length: int
    """Tokens per sequence."""
    ms_per_step: float
    """Milliseconds for one more token in every sequence of the batch: the mean over the positions of a sequence."""
    peak_memory_mb: float
    """Peak memory while generating, above the level of the process before the model was there (10^6 bytes)."""
    start_seconds: float
    """Seconds for what `ms_per_step` leaves out: loading the model, compiling, and the first steps."""
    positions_sampled: list[int]
    """Positions that were timed; for an engine the first and the last of a run through all between."""
    note: str = ""
    """A remark that a reader of the numbers needs, or the reason why there are none."""
    cost_by_position: dict[int, float] = field(default_factory=dict)
    """Milliseconds per step at single positions. A multi-scale stack is timed from each on for a whole turn,
    in which every level runs, because its steps differ."""
    loss: Loss | None = None
    """The bits that rounding the weights costs this engine; None for an engine that rounds none."""
    limit: Limit | None = None
    """The least time that this machine allows; None if it is not known."""


def without_numbers(workload: GenerationWorkload, note: str, length: int | None = None) -> GenerationMeasurement:
    """Return the measurement of a workload that did not run, with the reason; `length` is by default its first."""
    nan = math.nan
    return GenerationMeasurement(workload.way, workload.batch, length or workload.lengths[0], nan, nan, nan, [], note)
