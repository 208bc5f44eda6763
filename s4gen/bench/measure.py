"""Measuring one way to generate, at one batch size, in a process of its own.

What is timed is one more token for every sequence of the batch: embedding, layers, head and the draw. Not timed are
loading, converting, compiling and the first steps (they are `start_seconds`), and the kernels of the convolution, which
are built once.

- An engine takes every step alike, whatever the position, so as much of a sequence is generated as the budget allows,
  in chunks as large as generation asks for, and the median over chunks is the result. Rows are not padded, as
  generation pads them for some engines (`Engine.row_multiple`).
- What runs the whole prefix again is timed at a few positions, over which the mean is taken by the trapezoid rule.
- A Transformer with a cache is measured likewise: see `measure_cached`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from s4gen.bench.apart import DiedError, run_apart
from s4gen.bench.baselines import PrefixAgain, input_lengths, mean_over_positions
from s4gen.bench.instruments import PeakMemory, captured, median_seconds
from s4gen.bench.loss import loss_of
from s4gen.bench.measure_cached import measure_cached
from s4gen.bench.timed_generation import TimedGeneration, ms_in_turn, states_at, turn_of
from s4gen.bench.ways import AGAIN, CACHED, LOSSY
from s4gen.bench.workload import GenerationMeasurement, GenerationWorkload, without_numbers
from s4gen.config import DensityConfig
from s4gen.machine.memory import keep_freed_memory, lacks_memory
from s4gen.machine.timing import seconds
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.kept_kernels import keep_kernels, ssm_layers
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.converted import load_recurrent
from s4gen.sampling.engines import make_engine
from s4gen.ssm.block_form import block_lengths


def measure_apart(workload: GenerationWorkload) -> list[GenerationMeasurement]:
    """Return what `measure` gives in a fresh process; if that dies, a measurement without numbers."""
    try:
        return run_apart(_measure_with_threads, workload)
    except DiedError as error:
        return [without_numbers(workload, str(error))]


def _measure_with_threads(workload: GenerationWorkload) -> list[GenerationMeasurement]:
    keep_freed_memory()
    torch.set_num_threads(workload.threads)
    return measure(workload)


def measure(workload: GenerationWorkload) -> list[GenerationMeasurement]:
    """Measure in this process; a workload that does not fit into memory gives a measurement without numbers.

    Only in a fresh process is the peak memory that of the workload alone.
    """
    torch.manual_seed(0)
    with torch.inference_mode():
        try:
            if workload.way in CACHED:
                return measure_cached(workload)
            return [_measure_again(workload) if workload.way in AGAIN else _measure_engine(workload)]
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            return [without_numbers(workload, f"out of memory: {str(error).partition(chr(10))[0]}")]


def load(config: DensityConfig, checkpoint: Path | None, device: str) -> RecurrentModel:
    """Return the converted model; its weights are random where there is no checkpoint."""
    return (load_recurrent(checkpoint) if checkpoint else convert(build_model(config))).to(device)


def _measure_engine(workload: GenerationWorkload) -> GenerationMeasurement:
    started, device, length = time.perf_counter(), torch.device(workload.device), workload.lengths[0]
    memory = PeakMemory(device)
    recurrent, period = load(workload.config, workload.checkpoint, workload.device), turn_of(workload.config)
    with captured() as said:
        engine = make_engine(workload.way, recurrent)
        steps = TimedGeneration(engine, recurrent.initial_state(workload.batch), recurrent.bos, period)
        seconds(steps.turn, device)
    start_seconds = time.perf_counter() - started
    if engine.name != workload.way:  # make_engine and the compiled engine go on with another one
        why = said.getvalue().strip().removeprefix("s4gen: ").replace(", going on with the eager engine", "")
        return without_numbers(workload, why or f"there is no {workload.way} engine here")
    memory.reset()
    chunk = steps.chunk(device, length)
    # What is left of one sequence at most, but three chunks at least, of which a median can be taken.
    calls = max(3, (length - steps.taken) // chunk)
    ms = 1e3 * median_seconds(lambda: steps(chunk), device, workload.budget, max_calls=calls)[0] / chunk
    peak = memory.mb()
    sampled = [0, min(steps.taken, length) - 1]
    note = "peak memory includes what the compiler keeps" if workload.way == "compiled" else ""
    costs = {}
    if workload.positions:
        keep_kernels(recurrent.source)
        states = states_at(recurrent, workload.batch, workload.positions)
        far = {position: TimedGeneration(engine, state) for position, state in states.items()}
        costs = ms_in_turn(far, device, workload.budget, period)
    loss = loss_of(recurrent, engine) if workload.loss and workload.way in LOSSY else None
    return GenerationMeasurement(
        workload.way, workload.batch, length, ms, peak, start_seconds, sampled, note, costs, loss
    )


def _measure_again(workload: GenerationWorkload) -> GenerationMeasurement:
    started, device, length = time.perf_counter(), torch.device(workload.device), workload.lengths[0]
    memory = PeakMemory(device)
    note = ""
    if workload.way == "conv":
        model = load(workload.config, workload.checkpoint, workload.device).source
        if ssm_layers(model):  # a WaveNet has none
            rebuild = _seconds_to_build_kernels(model, length)
            note = f"kernels built once and not counted (a plain forward pass adds {1e3 * rebuild:.3g} ms for them)"
        keep_kernels(model)
    else:
        model = build_model(workload.config).eval().to(workload.device)
    way = PrefixAgain(model, workload.batch, length)
    last = seconds(way.at(length - 1), device)
    start_seconds = time.perf_counter() - started
    memory.reset()
    begin = time.perf_counter()

    def cost(position: int) -> float:
        if position == length - 1 and last > 10 * workload.budget:
            return last  # so slow that the first call is as good as another
        # Nine positions are measured at most, so each has a ninth of the time.
        return median_seconds(way.at(position), device, workload.budget / 9)[0]

    mean, costs = mean_over_positions(cost, length, enough=lambda: time.perf_counter() - begin > workload.budget)
    curve = {position: 1e3 * cost for position, cost in costs.items() if position} if workload.positions else {}
    return GenerationMeasurement(
        workload.way, workload.batch, length, 1e3 * mean, memory.mb(), start_seconds, sorted(costs), note, curve
    )


def _seconds_to_build_kernels(model: DensityModel, length: int) -> float:
    """Time how long all state space layers take to build their kernels for a sequence of this length, in seconds."""
    lengths = input_lengths(model, length)

    def build() -> list[object]:
        return [
            layer.block_maps(*block_lengths(max(1, n))) for layer, n in zip(ssm_layers(model), lengths, strict=True)
        ]

    return median_seconds(build, model.device, 0.0)[0]
