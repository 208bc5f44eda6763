"""The least time that this machine allows for each measurement: its roofline, in a process of its own.

Work is counted from shapes, and the machine's bandwidths and rates are measured with as many threads as the engines
had (`roofline`). On a CPU the native engine's library measures them too, and the better number counts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from s4gen.bench.apart import DiedError, run_apart
from s4gen.bench.measure import load
from s4gen.bench.roofline import (
    SECONDS_PER_RATE,
    Extra,
    Limit,
    Work,
    count,
    groups,
    limit,
    measure_rates,
    rates_reached,
    transformer_work,
    working_set,
)
from s4gen.bench.ways import AGAIN, CACHED, precision_of
from s4gen.compiling import targets
from s4gen.config import DensityConfig
from s4gen.models.build import build_model
from s4gen.sampling.engines.native import NativeUnavailable, measured_limits
from s4gen.sampling.flatten import NotFlatError, flatten

StepKey = tuple[str, int, int]
"""A step that has one limit: way, batch size, tokens per sequence."""


@dataclass(frozen=True)
class LimitsWorkload:
    """The steps whose limits are wanted."""

    steps: tuple[StepKey, ...]
    config: DensityConfig
    """Our model."""
    checkpoint: Path | None
    """Folder of its weights; None: random ones."""
    transformer: DensityConfig
    """The Transformer that it is compared with."""
    device: str
    threads: int


def limits_apart(workload: LimitsWorkload) -> dict[StepKey, Limit]:
    """Return what `limits` gives in a fresh process; nothing, and a line on standard error, if that dies."""
    try:
        return run_apart(limits, workload)
    except DiedError as error:
        print(f"s4gen: no limits measured: {error}", file=sys.stderr)
        return {}


def limits(workload: LimitsWorkload) -> dict[StepKey, Limit]:
    """Return the limit of every step that has one: of engines whose model has a plan, and Transformers with a cache."""
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)
    works = _works(workload)
    if not works:
        return {}
    sizes = {
        working_set(work, precision_of(way), rows) for (way, batch, _), work in works.items() for rows in groups(batch)
    }
    extra = _native_limits(workload.threads) if device.type == "cpu" else None
    precisions = {precision_of(way) for way, _, _ in works}
    with torch.inference_mode():
        rates = measure_rates(sizes, precisions, device, extra=extra)
    # An engine made for less than this processor has cannot reach what PyTorch reaches on it.
    narrowed = extra is not None and targets.wanted() not in (None, targets.NATIVE)
    of_native = rates_reached(extra, sizes, precisions) if extra is not None and narrowed else rates
    return {
        (way, batch, length): limit(work, precision_of(way), batch, of_native if way.startswith("native") else rates)
        for (way, batch, length), work in works.items()
    }


def _works(workload: LimitsWorkload) -> dict[StepKey, Work]:
    """Return the work of each step for which it can be counted."""
    works: dict[StepKey, Work] = {}
    try:
        plan = count(flatten(load(workload.config, workload.checkpoint, "cpu")))
    except NotFlatError:
        plan = None
    transformer = build_model(workload.transformer)
    for way, batch, length in workload.steps:
        if way in CACHED:
            works[way, batch, length] = transformer_work(transformer, length, precision_of(way))
        elif way not in AGAIN and plan is not None:
            works[way, batch, length] = plan
    return works


def _native_limits(threads: int) -> Extra | None:
    """Return the measurement by the native engine's library; None where there is no library."""

    def extra(size: int) -> tuple[float, float]:
        return measured_limits(size, threads, SECONDS_PER_RATE)

    try:
        extra(1)
    except NativeUnavailable:
        return None
    return extra
