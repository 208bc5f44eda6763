"""What this machine allows each row of the benchmark: the roofline of every case, measured in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from s4gen.apart import DiedError, run_apart
from s4gen.compiling import targets
from s4gen.config import DensityConfig
from s4gen.models.build import build_model
from s4gen.sampling.engines.native import NativeUnavailable, measured_limits
from s4gen.sampling.flatten import NotFlatError, flatten
from s4gen.sampling.measure import AGAIN, CACHED, load
from s4gen.sampling.roofline import (
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

_SECONDS = 0.1  # for each number

Case = tuple[str, int, int]
"""Way, batch, length."""


@dataclass(frozen=True)
class Job:
    """The cases whose limits are wanted."""

    cases: tuple[Case, ...]
    config: DensityConfig
    checkpoint: Path | None
    transformer: DensityConfig
    device: str
    threads: int


def limits_apart(job: Job) -> dict[Case, Limit]:
    """`limits` in a fresh process; none, and a line on standard error, if that dies."""
    try:
        return run_apart(limits, job)
    except DiedError as error:
        print(f"s4gen: no limits measured: {error}", file=sys.stderr)
        return {}


def limits(job: Job) -> dict[Case, Limit]:
    """The limit of every case for which there is one: engines of models that have a plan, Transformers with a cache."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    works = _works(job)
    if not works:
        return {}
    sizes = {
        working_set(work, precision_of(way), rows) for (way, batch, _), work in works.items() for rows in groups(batch)
    }
    extra = _native_limits(job.threads) if device.type == "cpu" else None
    precisions = {precision_of(way) for way, _, _ in works}
    with torch.inference_mode():
        rates = measure_rates(sizes, precisions, device, _SECONDS, extra)
    # An engine made for less than this processor has cannot reach what PyTorch reaches on it.
    narrowed = extra is not None and targets.wanted() not in (None, targets.NATIVE)
    of_native = rates_reached(extra, sizes, precisions) if extra is not None and narrowed else rates
    return {
        (way, batch, length): limit(work, precision_of(way), batch, of_native if way.startswith("native") else rates)
        for (way, batch, length), work in works.items()
    }


def precision_of(way: str) -> str:
    """Of the weights."""
    last = way.rpartition("-")[2]
    return last if last in ("bf16", "int8") else "fp32"


def _works(job: Job) -> dict[Case, Work]:
    works: dict[Case, Work] = {}
    try:
        plan = count(flatten(load(job.config, job.checkpoint, "cpu")))
    except NotFlatError:
        plan = None
    transformer = build_model(job.transformer)
    for way, batch, length in job.cases:
        if way in CACHED:
            works[way, batch, length] = transformer_work(transformer, length, precision_of(way))
        elif way not in AGAIN and plan is not None:
            works[way, batch, length] = plan
    return works


def _native_limits(threads: int) -> Extra | None:
    """What the native engine's library measures, if there is one."""

    def extra(size: int) -> tuple[float, float]:
        return measured_limits(size, threads, _SECONDS)

    try:
        extra(1)
    except NativeUnavailable:
        return None
    return extra
