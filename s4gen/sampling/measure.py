"""One row of the benchmark: one way to generate, at one batch size, measured in a process of its own."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from s4gen.apart import DiedError, run_apart
from s4gen.config import DensityConfig
from s4gen.memory import keep_freed_memory
from s4gen.models.density import DensityModel, ModelState
from s4gen.sampling.baselines import (
    KeyValueCache,
    PrefixAgain,
    Step,
    Way,
    keep_kernels,
    mean_over_positions,
    mixers,
)
from s4gen.sampling.convert import RecurrentModel, convert, load_recurrent
from s4gen.sampling.engines import Engine, make_engine
from s4gen.ssm.blocks import block_lengths
from s4gen.timing import PeakMemory, median_seconds, seconds

_PREFILL_CHUNK = 4096  # tokens per convolution on the way to a far position
_LARGEST_CACHE_MB = 2000.0  # a key-value cache beyond this is not measured
_REACH_SECONDS = 60.0  # for going to far positions; one that takes longer is left out
_ROUND_SECONDS = 0.05  # time at one position before the next has its turn


@dataclass(frozen=True)
class Task:
    """What is to be measured."""

    way: str
    """conv, transformer, transformer-no-cache, or the name of an engine."""
    config: DensityConfig
    """The model of this row."""
    checkpoint: Path | None
    """Where its weights are; None: random ones."""
    batch: int
    length: int
    """Tokens per sequence."""
    device: str
    threads: int
    budget: float
    """Seconds to measure for, start-up apart."""
    positions: tuple[int, ...] = ()
    """Where to measure the cost of single tokens besides."""


@dataclass(frozen=True)
class Row:
    """What was measured."""

    way: str
    batch: int
    length: int
    ms_per_step: float
    """One more token for all of the batch, mean over the positions of a sequence; NaN: it did not run."""
    peak_memory_mb: float
    """While generating, above the level of the process before the model was there (10^6 bytes)."""
    start_seconds: float
    """Loading the model, compiling, and the first steps."""
    positions_sampled: list[int]
    """Positions that were timed; of an engine the first and the last of a run through all between."""
    note: str = ""
    cost_by_position: dict[int, float] = field(default_factory=dict)
    """Milliseconds per step at single positions."""


def measure_apart(task: Task) -> Row:
    """`measure` in a fresh process; a row without numbers if that dies."""
    try:
        return run_apart(_measure_with_threads, task)
    except DiedError as error:
        return _failed(task, str(error))


def _measure_with_threads(task: Task) -> Row:
    keep_freed_memory()
    torch.set_num_threads(task.threads)
    return measure(task)


def measure(task: Task) -> Row:
    """Measure one row in this process. Only in a fresh process is the peak memory that of the row alone."""
    torch.manual_seed(0)
    with torch.inference_mode():
        try:
            if task.way in ("conv", "transformer", "transformer-no-cache"):
                return _measure_baseline(task)
            return _measure_engine(task)
        except (MemoryError, RuntimeError) as error:
            # On a CPU, PyTorch says so in a plain RuntimeError.
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            return _failed(task, f"out of memory: {str(error).partition(chr(10))[0]}")


def _failed(task: Task, note: str) -> Row:
    return Row(task.way, task.batch, task.length, math.nan, math.nan, math.nan, [], note)


def _measure_engine(task: Task) -> Row:
    started, device = time.perf_counter(), torch.device(task.device)
    memory = PeakMemory(device)
    recurrent = _load(task)
    engine = make_engine(task.way, recurrent)
    steps = Stepping(engine, recurrent, task.batch)
    seconds(steps, device)
    start_seconds = time.perf_counter() - started
    memory.reset()
    per_step, _ = median_seconds(steps, device, task.budget, max_calls=max(3, task.length - 3))
    peak = memory.mb()
    note = "peak memory includes what the compiler keeps" if task.way == "compiled" else ""
    costs = _engine_at_positions(task, engine, recurrent) if task.positions else {}
    sampled = [0, min(steps.taken, task.length) - 1]
    return Row(task.way, task.batch, task.length, 1e3 * per_step, peak, start_seconds, sampled, note, costs)


class Stepping:
    """A batch of sequences being generated: each call draws one more token for all of them."""

    def __init__(self, engine: Engine, recurrent: RecurrentModel, batch: int, state: ModelState | None = None) -> None:
        self._engine = engine
        self._token = torch.full((batch,), 0 if state else recurrent.bos, device=recurrent.device)
        self._state = state or recurrent.initial_state(batch)
        self._u = torch.rand(batch, dtype=torch.float64, device=recurrent.device)
        self.taken = 0

    def __call__(self) -> None:
        self._token, self._state = self._engine.advance(self._token, self._state, self._u)
        self.taken += 1


def _engine_at_positions(task: Task, engine: Engine, recurrent: RecurrentModel) -> dict[int, float]:
    """ms per step from each position on, the state there being that of a random sequence of that length.

    It comes from the convolution view, so nothing has to be stepped through first.
    """
    keep_kernels(recurrent.source)
    deadline = time.perf_counter() + _REACH_SECONDS
    state, reached, steps = None, 0, {}
    for position in sorted(task.positions):
        while reached < position and time.perf_counter() < deadline:
            n = min(_PREFILL_CHUNK, position - reached)
            tokens = torch.randint(task.config.layout.vocab, (task.batch, n), device=recurrent.device)
            _, state = recurrent.prefill(tokens, state)
            reached += n
        if reached == position and state is not None:
            steps[position] = Stepping(engine, recurrent, task.batch, state)
    return _costs_in_turn(steps, torch.device(task.device), task.budget)


def _measure_baseline(task: Task) -> Row:
    started, device = time.perf_counter(), torch.device(task.device)
    memory = PeakMemory(device)
    note = ""
    if task.way == "conv":
        model = _load(task).source
        rebuild = _seconds_to_build_kernels(model, task.length)
        keep_kernels(model)
        note = f"kernels built once and not counted (a plain forward pass adds {1e3 * rebuild:.3g} ms for them)"
    else:
        model = DensityModel(task.config).eval().to(task.device)
    cached = task.way == "transformer"
    way: Way = (KeyValueCache if cached else PrefixAgain)(model, task.batch, task.length)
    seconds(way.at(task.length - 1), device)
    start_seconds = time.perf_counter() - started
    memory.reset()
    begin = time.perf_counter()
    mean, costs = mean_over_positions(
        lambda position: median_seconds(way.at(position), device, task.budget / 9)[0],
        task.length,
        enough=lambda: time.perf_counter() - begin > task.budget,
    )
    peak = memory.mb()
    curve = {}
    if task.positions:
        own = {position: 1e3 * cost for position, cost in costs.items() if position}
        curve = _cache_at_positions(task, model) if cached else own
    return Row(task.way, task.batch, task.length, 1e3 * mean, peak, start_seconds, sorted(costs), note, curve)


def _cache_at_positions(task: Task, model: DensityModel) -> dict[int, float]:
    """ms per step of the Transformer with its cache filled up to each position, as far as memory allows."""
    bytes_per_position = 2 * 4 * task.config.model.n_layers * task.config.model.d_model * task.batch
    positions = [p for p in task.positions if p * bytes_per_position <= _LARGEST_CACHE_MB * 1e6]
    if not positions:
        return {}
    cache = KeyValueCache(model, task.batch, max(positions) + 1)
    steps = {position: cache.at(position) for position in positions}
    return _costs_in_turn(steps, torch.device(task.device), task.budget)


def _costs_in_turn(steps: Mapping[int, Step], device: torch.device, budget: float) -> dict[int, float]:
    """Median ms of each step. They take turns, so that a disturbance of the machine falls on all alike."""

    def repeat(step: Step, n: int) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(n):
                step()

        return calls

    for step in steps.values():
        seconds(step, device)
    group = {p: max(1, round(_ROUND_SECONDS / seconds(step, device))) for p, step in steps.items()}
    times: dict[int, list[float]] = {position: [] for position in steps}
    deadline = time.perf_counter() + budget
    while time.perf_counter() < deadline or any(len(taken) < 3 for taken in times.values()):
        for position, step in steps.items():
            times[position].append(seconds(repeat(step, group[position]), device) / group[position])
    return {position: 1e3 * statistics.median(taken) for position, taken in times.items()}


def _seconds_to_build_kernels(model: DensityModel, length: int) -> float:
    def build() -> list[object]:
        return [mixer.block_maps(*block_lengths(length)) for mixer in mixers(model)]

    return median_seconds(build, model.head.weight.device, 0.0)[0]


def _load(task: Task) -> RecurrentModel:
    recurrent = load_recurrent(task.checkpoint) if task.checkpoint else convert(DensityModel(task.config))
    return recurrent.to(task.device)
