"""Measuring the Transformer with a key-value cache.

A step is timed at a few positions of each length, the cache being allocated once for the longest, and the mean over the
positions of a sequence is taken by the trapezoid rule. The faster of two forms of the step counts: compiled and
plain are tried against each other first. Compiling, and the trial, are not part of a time.

Peak memory is that of separate caches for all layers, up to the length measured, also where the layers share fewer
caches here to save memory.
"""

from __future__ import annotations

import time

import torch

from s4gen.bench.baselines import mean_over_positions
from s4gen.bench.cached_transformer import LARGEST_CACHE, CachedTransformer
from s4gen.bench.instruments import MB, PeakMemory, captured, median_seconds
from s4gen.bench.timed_generation import ms_in_turn, repeated
from s4gen.bench.workload import GenerationMeasurement, GenerationWorkload, without_numbers
from s4gen.machine.timing import seconds
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

_TRIAL_SECONDS = 0.5
"""Seconds for choosing between two forms of the same step."""


def measure_cached(workload: GenerationWorkload) -> list[GenerationMeasurement]:
    """Return a measurement for each length, all from one cache, each averaged over positions of its own.

    A length for which the cache of a single layer would take more than `LARGEST_CACHE` bytes is not measured, and its
    note says so.
    """
    started, device = time.perf_counter(), torch.device(workload.device)
    memory = PeakMemory(device)
    dtype = torch.bfloat16 if workload.way.endswith("bf16") else torch.float32
    model = build_model(workload.config).eval().requires_grad_(False).to(workload.device, dtype)
    # Positions that fit into the cache of one layer: keys and values, d_model numbers each.
    most = LARGEST_CACHE // (2 * workload.batch * workload.config.model.d_model * dtype.itemsize)
    lengths = [length for length in workload.lengths if length <= most]
    too_long = [without_numbers(workload, _too_long(length), length) for length in workload.lengths if length > most]
    if not lengths:
        return too_long
    positions = [position for position in workload.positions if position < most]
    capacity = max([*lengths, *(position + 1 for position in positions)])
    with captured():
        way, form = _faster(model, workload, capacity, lengths[0] // 2)
    start_seconds = time.perf_counter() - started
    memory.reset()
    seconds(way.at(lengths[0] - 1), device)
    level = max(0.0, memory.mb() - way.cache.nbytes / MB)
    notes = [form]
    if len(way.cache) < way.layers:
        notes.append(
            f"to save memory the {way.layers} layers share the caches of {len(way.cache)}, "
            f"{way.cache.nbytes / MB:,.0f} MB (peak memory: with separate ones)"
        )
    measured = []
    for length in lengths:
        begin = time.perf_counter()
        # Nine positions are measured at most, so each has a ninth of the time.
        mean, costs = mean_over_positions(
            lambda position: median_seconds(way.at(position), device, workload.budget / 9)[0],
            length,
            enough=lambda begin=begin: time.perf_counter() - begin > workload.budget,  # type: ignore[misc]
        )
        peak = level + way.bytes_for(length) / MB
        measured.append(
            GenerationMeasurement(
                workload.way, workload.batch, length, 1e3 * mean, peak, start_seconds, sorted(costs), "; ".join(notes)
            )
        )
    if positions:
        steps = {position: repeated(way.at(position)) for position in positions}
        measured[0].cost_by_position.update(ms_in_turn(steps, device, workload.budget))
    return [*measured, *too_long]


def _too_long(length: int) -> str:
    return f"not measured at length {length:,}: the cache of one layer alone takes more than {LARGEST_CACHE / 1e9:g} GB"


def _faster(
    model: DensityModel, workload: GenerationWorkload, capacity: int, position: int
) -> tuple[CachedTransformer, str]:
    """Return the compiled or the plain form of the step, whichever is faster at this position, and a note on both."""
    plain = CachedTransformer(model, workload.batch, capacity)
    if not workload.compiled:
        return plain, "not compiled"
    try:
        compiled = plain.compiled(position)
    except Exception as error:  # the compiler's errors have no common type
        return plain, f"torch.compile failed: {str(error).strip().partition(chr(10))[0]}"
    steps = [repeated(way.at(position)) for way in (plain, compiled)]
    plain_ms, compiled_ms = ms_in_turn(dict(enumerate(steps)), torch.device(workload.device), _TRIAL_SECONDS).values()
    both = f"{compiled_ms:.3g} ms compiled, {plain_ms:.3g} ms eager at position {position:,}"
    return (compiled, f"compiled ({both})") if compiled_ms < plain_ms else (plain, f"eager ({both})")
