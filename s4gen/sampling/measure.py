"""One way to generate, at one batch size, measured in a process of its own: rows of the benchmark."""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from s4gen.apart import DiedError, run_apart
from s4gen.config import DensityConfig
from s4gen.memory import keep_freed_memory
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.baselines import PrefixAgain, input_lengths, keep_kernels, mean_over_positions, ssm_layers
from s4gen.sampling.cached import LARGEST_CACHE, CachedTransformer
from s4gen.sampling.convert import RecurrentModel, convert, load_recurrent
from s4gen.sampling.engines import make_engine
from s4gen.sampling.roofline import Limit
from s4gen.sampling.scoring import LOSSY, Loss, loss_of
from s4gen.sampling.stepping import Stepping, ms_in_turn, repeated, states_at, turn_of
from s4gen.ssm.block_form import block_lengths
from s4gen.timing import PeakMemory, median_seconds, seconds

CACHED = ("transformer", "transformer-bf16")
"""Transformers with a key-value cache; bf16: weights and cache are rounded to it."""
AGAIN = ("conv", "transformer-no-cache")
"""Ways that run the whole prefix again for every token."""

_MB = 1e6
_TRIAL_SECONDS = 0.5  # for choosing between two forms of the same step


@dataclass(frozen=True)
class Task:
    """What is to be measured."""

    way: str
    """One of CACHED or AGAIN, or the name of an engine."""
    config: DensityConfig
    """The model of this row."""
    checkpoint: Path | None
    """Where its weights are; None: random ones."""
    batch: int
    lengths: tuple[int, ...]
    """Tokens per sequence. Where a cache grows there is a row for each; others are measured at the first alone."""
    device: str
    threads: int
    budget: float
    """Seconds to measure each row for, start-up apart."""
    positions: tuple[int, ...] = ()
    """Where to measure the cost of single tokens besides."""
    loss: bool = False
    """Whether to measure what a lossy engine loses."""
    compiled: bool = True
    """Whether to compile the Transformer with a cache, which takes up to a minute."""


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
    """Milliseconds per step at single positions; of a multi-scale stack, from there on."""
    loss: Loss | None = None
    """Of a lossy engine."""
    limit: Limit | None = None
    """How fast this machine could be; None: not known."""


def measure_apart(task: Task) -> list[Row]:
    """`measure` in a fresh process; a row without numbers if that dies."""
    try:
        return run_apart(_measure_with_threads, task)
    except DiedError as error:
        return [failed(task, str(error))]


def _measure_with_threads(task: Task) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(task.threads)
    return measure(task)


def measure(task: Task) -> list[Row]:
    """Measure in this process. Only in a fresh process is the peak memory that of the rows alone."""
    torch.manual_seed(0)
    with torch.inference_mode():
        try:
            if task.way in CACHED:
                return _measure_cached(task)
            return [_measure_again(task) if task.way in AGAIN else _measure_engine(task)]
        except (MemoryError, RuntimeError) as error:
            # On a CPU, PyTorch says so in a plain RuntimeError.
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            return [failed(task, f"out of memory: {str(error).partition(chr(10))[0]}")]


def failed(task: Task, note: str, length: int | None = None) -> Row:
    """A row without numbers."""
    return Row(task.way, task.batch, length or task.lengths[0], math.nan, math.nan, math.nan, [], note)


def load(config: DensityConfig, checkpoint: Path | None, device: str) -> RecurrentModel:
    """The converted model, its weights random where there is no checkpoint."""
    return (load_recurrent(checkpoint) if checkpoint else convert(build_model(config))).to(device)


def _measure_engine(task: Task) -> Row:
    """Rows are not padded, as generation pads them for some engines (see `Engine.row_multiple`)."""
    started, device = time.perf_counter(), torch.device(task.device)
    memory = PeakMemory(device)
    recurrent, period = load(task.config, task.checkpoint, task.device), turn_of(task.config)
    with _said() as said:
        engine = make_engine(task.way, recurrent)
        steps = Stepping(engine, recurrent.initial_state(task.batch), recurrent.bos, period)
        seconds(steps.turn, device)
    start_seconds = time.perf_counter() - started
    if engine.name != task.way:  # make_engine and the compiled engine go on with another one
        why = said.getvalue().strip().removeprefix("s4gen: ").replace(", going on with the eager engine", "")
        return failed(task, why or f"there is no {task.way} engine here")
    memory.reset()
    chunk = steps.chunk(device, task.lengths[0])
    calls = max(3, (task.lengths[0] - steps.taken) // chunk)
    ms = 1e3 * median_seconds(lambda: steps(chunk), device, task.budget, max_calls=calls)[0] / chunk
    peak = memory.mb()
    sampled = [0, min(steps.taken, task.lengths[0]) - 1]
    note = "peak memory includes what the compiler keeps" if task.way == "compiled" else ""
    costs = {}
    if task.positions:
        keep_kernels(recurrent.source)
        states = states_at(recurrent, task.batch, task.positions)
        costs = ms_in_turn({p: Stepping(engine, state) for p, state in states.items()}, device, task.budget, period)
    loss = loss_of(recurrent, engine) if task.loss and task.way in LOSSY else None
    return Row(task.way, task.batch, task.lengths[0], ms, peak, start_seconds, sampled, note, costs, loss)


def _measure_again(task: Task) -> Row:
    started, device, length = time.perf_counter(), torch.device(task.device), task.lengths[0]
    memory = PeakMemory(device)
    note = ""
    if task.way == "conv":
        model = load(task.config, task.checkpoint, task.device).source
        if ssm_layers(model):  # a WaveNet has none
            rebuild = _seconds_to_build_kernels(model, length)
            note = f"kernels built once and not counted (a plain forward pass adds {1e3 * rebuild:.3g} ms for them)"
        keep_kernels(model)
    else:
        model = build_model(task.config).eval().to(task.device)
    way = PrefixAgain(model, task.batch, length)
    last = seconds(way.at(length - 1), device)
    start_seconds = time.perf_counter() - started
    memory.reset()
    begin = time.perf_counter()

    def cost(position: int) -> float:
        if position == length - 1 and last > 10 * task.budget:
            return last  # so slow that the first call is as good as another
        return median_seconds(way.at(position), device, task.budget / 9)[0]

    mean, costs = mean_over_positions(cost, length, enough=lambda: time.perf_counter() - begin > task.budget)
    curve = {position: 1e3 * cost for position, cost in costs.items() if position} if task.positions else {}
    return Row(task.way, task.batch, length, 1e3 * mean, memory.mb(), start_seconds, sorted(costs), note, curve)


def _measure_cached(task: Task) -> list[Row]:
    """A row for each length, all from one cache; each at its own positions, over which it is averaged."""
    started, device = time.perf_counter(), torch.device(task.device)
    memory = PeakMemory(device)
    dtype = torch.bfloat16 if task.way.endswith("bf16") else torch.float32
    model = build_model(task.config).eval().requires_grad_(False).to(task.device, dtype)
    most = LARGEST_CACHE // (2 * task.batch * task.config.model.d_model * dtype.itemsize)  # positions of one layer
    lengths = [length for length in task.lengths if length <= most]
    too_long = [failed(task, _too_long(length), length) for length in task.lengths if length > most]
    if not lengths:
        return too_long
    positions = [position for position in task.positions if position < most]
    capacity = max([*lengths, *(position + 1 for position in positions)])
    with _said():
        way, form = _faster(model, task, capacity, lengths[0] // 2)
    start_seconds = time.perf_counter() - started
    memory.reset()
    seconds(way.at(lengths[0] - 1), device)
    level = max(0.0, memory.mb() - way.cache.nbytes / _MB)
    notes = [form]
    if len(way.cache) < way.layers:
        notes.append(
            f"to save memory the {way.layers} layers share the caches of {len(way.cache)}, "
            f"{way.cache.nbytes / _MB:,.0f} MB (peak memory: with separate ones)"
        )
    rows = []
    for length in lengths:
        begin = time.perf_counter()
        mean, costs = mean_over_positions(
            lambda position: median_seconds(way.at(position), device, task.budget / 9)[0],
            length,
            enough=lambda begin=begin: time.perf_counter() - begin > task.budget,  # type: ignore[misc]
        )
        peak = level + way.bytes_for(length) / _MB
        note = "; ".join(notes)
        rows.append(Row(task.way, task.batch, length, 1e3 * mean, peak, start_seconds, sorted(costs), note))
    if positions:
        steps = {position: repeated(way.at(position)) for position in positions}
        rows[0].cost_by_position.update(ms_in_turn(steps, device, task.budget))
    return [*rows, *too_long]


def _too_long(length: int) -> str:
    return f"not measured at length {length:,}: the cache of one layer alone takes more than {LARGEST_CACHE / 1e9:g} GB"


def _faster(model: DensityModel, task: Task, capacity: int, position: int) -> tuple[CachedTransformer, str]:
    """The compiled or the plain form of the step, whichever is faster at this position, and a note on both."""
    plain = CachedTransformer(model, task.batch, capacity)
    if not task.compiled:
        return plain, "not compiled"
    try:
        compiled = plain.compiled(position)
    except Exception as error:  # the compiler's errors have no common type
        return plain, f"torch.compile failed: {str(error).strip().partition(chr(10))[0]}"
    steps = [repeated(way.at(position)) for way in (plain, compiled)]
    plain_ms, compiled_ms = ms_in_turn(dict(enumerate(steps)), torch.device(task.device), _TRIAL_SECONDS).values()
    both = f"{compiled_ms:.3g} ms compiled, {plain_ms:.3g} ms eager at position {position:,}"
    return (compiled, f"compiled ({both})") if compiled_ms < plain_ms else (plain, f"eager ({both})")


@contextlib.contextmanager
def _said() -> Iterator[io.StringIO]:
    """What is printed inside the block, where compilers tell much; their warnings are left out."""
    lines = io.StringIO()
    with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lines


def _seconds_to_build_kernels(model: DensityModel, length: int) -> float:
    def build() -> list[object]:
        return [
            layer.block_maps(*block_lengths(max(1, n))) for layer, n in zip(ssm_layers(model), lengths, strict=True)
        ]

    lengths = input_lengths(model, length)
    return median_seconds(build, model.device, 0.0)[0]
