"""The benchmark of the ancestors: a training step of LSSL, S4, S4D and DSS, as in table 2 of the S4 paper.

N = H = dimension; one SSM serves all features, with a step size for each. A step makes a kernel of length L, convolves
a batch with it by FFT, and goes back to the gradients of all parameters and of the input; skip, projections and
optimiser are left out. Each kernel is that of its paper. So the parameter C of S4 is taken to be the truncated C~, and
no power of the matrix is needed.

Beside it stands S4 as the layers of this package run it, in blocks (`ssm/block_form.py`). That form is made for N of 64
or so: it takes dense powers of the matrix, one for each feature, as LSSL does.

Time is the median over steps. Peak memory is that of the first step, in a process of its own, above the level of a
process that has taken the same step at the smallest size.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from s4gen.bench.apart import DiedError, run_apart
from s4gen.bench.instruments import PeakMemory, machine, machine_line, median_seconds
from s4gen.bench.published import BATCH, DIMENSIONS, LENGTH, is_published, published
from s4gen.bench.tables import aligned, number
from s4gen.config import SSMConfig
from s4gen.machine.device import best_device
from s4gen.machine.memory import keep_freed_memory, lacks_memory
from s4gen.machine.timing import seconds
from s4gen.models.lssl_dss import DSS, LSSL
from s4gen.models.ssm_layers import S4, S4D
from s4gen.showing.progress import progress_bar
from s4gen.ssm import dplr
from s4gen.ssm.block_form import block_convolve, block_lengths, fft_convolve

BUDGET = 0.5
"""Seconds of measuring for each workload; a step that takes more than ten times that is taken once."""
TITLES = {
    "lssl": "LSSL",
    "s4": "S4, Cauchy sums",
    "s4-blocks": "S4, blocks",
    "s4d": "S4D",
    "dss": "DSS (softmax)",
}
"""The layers that are measured, in this order, and their names in the table."""
HEADER = ("ms", "peak MB", "LSSL: time", "memory", "| paper: ms", "MB", "LSSL: time", "memory")
"""Columns of the table. Under LSSL stands how many times as much of it LSSL takes."""


@dataclass(frozen=True)
class TrainingStepWorkload:
    """A training step of one layer at one size."""

    way: str
    """The layer: a key of TITLES."""
    dimension: int
    """N and H."""
    length: int
    batch: int
    device: str
    threads: int
    budget: float
    """Seconds to measure for."""


@dataclass(frozen=True)
class TrainingStepMeasurement:
    """The cost of one training step; NaN where it did not run."""

    way: str
    dimension: int
    ms: float
    peak_mb: float
    """Peak memory above the level of a process that has done the same at the smallest size (10^6 bytes)."""
    note: str = ""


@dataclass(frozen=True)
class AncestorsResult:
    """The whole comparison."""

    machine: dict[str, str | int]
    """The processor, threads and versions: `instruments.machine`."""
    length: int
    batch: int
    rows: list[TrainingStepMeasurement]

    def ratios(self, row: TrainingStepMeasurement) -> tuple[float, float]:
        """Return how many times the time and the memory of this row LSSL takes; NaN where one of both did not run."""
        lssl = {other.dimension: other for other in self.rows if other.way == "lssl"}.get(row.dimension)
        return (_ratio(lssl.ms, row.ms), _ratio(lssl.peak_mb, row.peak_mb)) if lssl else (math.nan, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON: the conditions, and a row for each measurement, beside what was published."""
        rows = []
        for row in self.rows:
            time, memory = self.ratios(row)
            ms, mb, paper_time, paper_memory = published(row.way, row.dimension)
            paper = {"ms": ms, "peak_mb": mb, "lssl_time_ratio": paper_time, "lssl_memory_ratio": paper_memory}
            own = {**asdict(row), "lssl_time_ratio": time, "lssl_memory_ratio": memory}
            rows.append({**own, "published": paper if is_published(row.way, row.dimension) else None})
        return {"machine": self.machine, "length": self.length, "batch": self.batch, "rows": rows}

    def table(self) -> str:
        """Return what `s4gen bench ancestors` prints: the conditions, a table for each dimension, notes."""
        lines = [
            f"one training step (kernel and FFT convolution, or blocks, forward and backward), N = H = dimension, "
            f"length {self.length}, batch {self.batch}, float32",
            machine_line(self.machine),
            "paper: S4 (arXiv 2111.00396), table 2, on a GPU",
        ]
        for dimension in dict.fromkeys(row.dimension for row in self.rows):
            table = [[f"dimension {dimension}", *HEADER]]
            for row in self.rows:
                if row.dimension == dimension:
                    numbers = (row.ms, row.peak_mb, *self.ratios(row), *published(row.way, dimension))
                    table.append([TITLES[row.way], *map(number, numbers)])
            lines += ["", *aligned(table)]
        notes = [f"dimension {row.dimension}, {TITLES[row.way]}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*lines, *([""] if notes else []), *notes])


def _ratio(more: float, less: float) -> float:
    return more / less if less > 0 else math.nan


def run(
    dimensions: Sequence[int] = DIMENSIONS,
    *,
    length: int = LENGTH,
    batch: int = BATCH,
    budget: float = BUDGET,
    progress: bool = False,
) -> AncestorsResult:
    """Measure every layer at every dimension, on the GPU where there is one.

    Args:
        dimensions: values of N = H, even numbers.
        length: tokens per sequence.
        batch: sequences.
        budget: seconds of measuring for each layer and dimension.
        progress: whether to show a bar on standard error, with the time that is left and what is being measured.
    """
    device = best_device()
    threads = torch.get_num_threads()
    rows = []
    with progress_bar(len(dimensions) * len(TITLES), "measurement", progress, "measuring") as bar:
        for dimension in dimensions:
            for way in TITLES:
                bar.set_postfix_str(f"{TITLES[way]}, dimension {dimension}", refresh=True)
                workload = TrainingStepWorkload(way, dimension, length, batch, str(device), threads, budget)
                rows.append(measure_apart(workload))
                bar.update(1)
    return AncestorsResult(machine(device), length, batch, rows)


def measure_apart(workload: TrainingStepWorkload) -> TrainingStepMeasurement:
    """Return what `measure` gives in a fresh process; a measurement without numbers where memory does not suffice."""
    try:
        return run_apart(measure, workload)
    except (DiedError, MemoryError, RuntimeError) as error:
        if not isinstance(error, DiedError) and not lacks_memory(error):
            raise
        note = f"does not fit here: {str(error).partition(chr(10))[0]}"
        return TrainingStepMeasurement(workload.way, workload.dimension, math.nan, math.nan, note)


def measure(workload: TrainingStepWorkload) -> TrainingStepMeasurement:
    """Measure in this process. Only in a fresh process is the peak memory that of the workload alone."""
    torch.set_num_threads(workload.threads)
    torch.manual_seed(0)
    way, dimension, device = workload.way, workload.dimension, torch.device(workload.device)
    training_step(way, 8, 16, 1, device)()  # loads the libraries, whose memory is not the step's
    _return_freed_memory()
    memory = PeakMemory(device)
    step = training_step(way, dimension, workload.length, workload.batch, device)
    first = seconds(step, device)
    peak = memory.mb()
    if first > 10 * workload.budget:
        return TrainingStepMeasurement(way, dimension, 1e3 * first, peak, "one step, the first")
    # Memory is known; from here on, pages that malloc takes from the kernel anew must not be part of the time.
    keep_freed_memory()
    return TrainingStepMeasurement(way, dimension, 1e3 * median_seconds(step, device, workload.budget)[0], peak)


def training_step(way: str, dimension: int, length: int, batch: int, device: torch.device) -> Callable[[], None]:
    """Return a function that takes one step, as described above, from random numbers; it leaves all gradients."""
    config = SSMConfig(d_state=dimension, n_ssm=1, norm_length=length if way == "dss" else 0)
    layer: Any = {"lssl": LSSL, "s4": S4, "s4-blocks": S4, "s4d": S4D, "dss": DSS}[way](dimension, config).to(device)
    convolve = {"s4": _by_cauchy_sums, "s4-blocks": _in_blocks}.get(way, _by_own_kernel)
    u = torch.randn(batch, length, dimension, device=device, requires_grad=True)
    gradient = torch.randn(batch, length, dimension, device=device)

    def step() -> None:
        for tensor in (u, *layer.parameters()):
            tensor.grad = None
        convolve(layer, u).backward(gradient)

    return step


def _by_own_kernel(layer: Any, u: Tensor) -> Tensor:
    return fft_convolve(u, layer.kernel(u.shape[1]))


def _by_cauchy_sums(layer: S4, u: Tensor) -> Tensor:
    return fft_convolve(u, truncated_kernel(layer, u.shape[1]))


def _in_blocks(layer: S4, u: Tensor) -> Tensor:
    return block_convolve(u, layer.block_maps(*block_lengths(u.shape[1])), None)[0]


def truncated_kernel(layer: S4, L: int) -> Tensor:
    """Return the kernel r(H, L) of S4 as published (algorithm 1): the layer's C is taken to be C~ = C (I - Abar^L)."""
    Lambda, B, C, dt = layer.continuous()
    return dplr.truncated_cauchy_kernel(Lambda, layer.low_rank(), B, C, dt, L)


def _return_freed_memory() -> None:
    """Let glibc give every freed tensor back at once: else the resident memory is several times that of the tensors."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD of malloc.h, in bytes
