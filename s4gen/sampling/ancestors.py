"""What S4 was an answer to: a training step of LSSL, S4, S4D and DSS, as in table 2 of the S4 paper.

N = H = dimension; one SSM for all features, with a step size for each. A step is a kernel of length L and its
convolution with a batch by FFT, forward and backward to the gradients of all parameters and of the input; skip,
projections and optimiser are left out. Each kernel is that of its paper. So the parameter C of S4 is taken to be the
truncated C~, and no power of the matrix is needed; our own S4 layer, made for N of 64 or so, takes dense powers of it.
"""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from s4gen.apart import DiedError, run_apart
from s4gen.config import SSMConfig
from s4gen.memory import keep_freed_memory
from s4gen.models.ancestors import DSS, LSSL
from s4gen.models.ssm_layers import S4, S4D
from s4gen.sampling.bench_report import aligned, number
from s4gen.ssm import dplr
from s4gen.ssm.block_form import fft_convolve
from s4gen.timing import PeakMemory, machine, median_seconds, seconds

DIMENSIONS = (128, 256, 512)
LENGTH = 1024
BATCH = 1
BUDGET = 0.5
"""Seconds of measuring per row; a step of more than ten times that is taken once."""
TITLES = {"lssl": "LSSL", "s4": "S4 (DPLR)", "s4d": "S4D", "dss": "DSS (softmax)"}
PUBLISHED = {
    ("lssl", 128): (9.32, 222.1),
    ("lssl", 256): (20.6, 1685.0),
    ("lssl", 512): (140.7, 13140.0),
    ("s4", 128): (4.77, 5.3),
    ("s4", 256): (3.07, 12.6),
    ("s4", 512): (4.75, 33.5),
}
"""ms and MB of a training step on the paper's GPU, by way and dimension."""
TILE = 2**16
"""Modes times frequencies in one tile of Cauchy sums."""
HEADER = ("ms", "peak MB", "LSSL: time", "memory", "| paper: ms", "MB", "LSSL: time", "memory")
"""Columns of the table. Under LSSL: how many times as much of it LSSL takes."""


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    way: str
    """A key of TITLES."""
    dimension: int
    """N and H."""
    length: int
    batch: int
    device: str
    threads: int
    budget: float


@dataclass(frozen=True)
class Row:
    """What one training step took; NaN where it did not run."""

    way: str
    dimension: int
    ms: float
    peak_mb: float
    """Above the level of a process that has done the same at the least size (10^6 bytes)."""
    note: str = ""


@dataclass(frozen=True)
class Result:
    """The whole table."""

    machine: dict[str, str | int]
    length: int
    batch: int
    rows: list[Row]

    def ratios(self, row: Row) -> tuple[float, float]:
        """How many times the time and the memory of this row LSSL takes; NaN where one of the two did not run."""
        lssl = {other.dimension: other for other in self.rows if other.way == "lssl"}.get(row.dimension)
        return (_ratio(lssl.ms, row.ms), _ratio(lssl.peak_mb, row.peak_mb)) if lssl else (math.nan, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = []
        for row in self.rows:
            time, memory = self.ratios(row)
            ms, mb, paper_time, paper_memory = published(row.way, row.dimension)
            paper = {"ms": ms, "peak_mb": mb, "lssl_time_ratio": paper_time, "lssl_memory_ratio": paper_memory}
            own = {**asdict(row), "lssl_time_ratio": time, "lssl_memory_ratio": memory}
            rows.append({**own, "published": paper if (row.way, row.dimension) in PUBLISHED else None})
        return {"machine": self.machine, "length": self.length, "batch": self.batch, "rows": rows}


def _ratio(more: float, less: float) -> float:
    return more / less if less > 0 else math.nan


def published(way: str, dimension: int) -> tuple[float, float, float, float]:
    """ms, MB and LSSL's multiples of both in the paper; NaN where it has none."""
    ms, mb = PUBLISHED.get((way, dimension), (math.nan, math.nan))
    lssl_ms, lssl_mb = PUBLISHED.get(("lssl", dimension), (math.nan, math.nan))
    return ms, mb, lssl_ms / ms, lssl_mb / mb


def truncated_kernel(layer: S4, L: int) -> Tensor:
    """Kernel r(H, L) of S4 as published (algorithm 1): the layer's C taken to be C~ = C (I - Abar^L)."""
    Lambda, B, C, dt = layer.continuous()
    return dplr.truncated_cauchy_kernel(Lambda, layer.low_rank(), B, C, dt, L, TILE)


def training_step(way: str, dimension: int, length: int, batch: int, device: torch.device) -> Callable[[], None]:
    """A function that takes one step, as described above, from random numbers; all gradients are there after it."""
    config = SSMConfig(d_state=dimension, n_ssm=1, norm_length=length if way == "dss" else 0)
    layer: Any = {"lssl": LSSL, "s4": S4, "s4d": S4D, "dss": DSS}[way](dimension, config).to(device)
    u = torch.randn(batch, length, dimension, device=device, requires_grad=True)
    gradient = torch.randn(batch, length, dimension, device=device)

    def step() -> None:
        for tensor in (u, *layer.parameters()):
            tensor.grad = None
        kernel = truncated_kernel(layer, length) if isinstance(layer, S4) else layer.kernel(length)
        fft_convolve(u, kernel).backward(gradient)

    return step


def measure(case: Case) -> Row:
    """Measure one row in this process. Only in a fresh process is the peak memory that of the row alone."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    device = torch.device(case.device)
    training_step(case.way, 8, 16, 1, device)()  # loads the libraries, whose memory is not the step's
    _return_freed_memory()
    memory = PeakMemory(device)
    step = training_step(case.way, case.dimension, case.length, case.batch, device)
    first = seconds(step, device)
    peak = memory.mb()
    if first > 10 * case.budget:
        return Row(case.way, case.dimension, 1e3 * first, peak, "one step, the first")
    keep_freed_memory()
    return Row(case.way, case.dimension, 1e3 * median_seconds(step, device, case.budget)[0], peak)


def _return_freed_memory() -> None:
    """Let glibc give every freed tensor back at once: else the resident memory is several times that of the tensors."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD of malloc.h, in bytes


def measured(case: Case) -> Row:
    """`measure` in a process of its own; a row without numbers where memory does not suffice."""
    try:
        return run_apart(measure, case)
    except (DiedError, MemoryError, RuntimeError) as error:
        # On a CPU, PyTorch says so in a plain RuntimeError.
        if type(error) is RuntimeError and "allocate memory" not in str(error):
            raise
        note = f"does not fit here: {str(error).partition(chr(10))[0]}"
        return Row(case.way, case.dimension, math.nan, math.nan, note)


def run(
    dimensions: Sequence[int] = DIMENSIONS,
    *,
    length: int = LENGTH,
    batch: int = BATCH,
    budget: float = BUDGET,
    progress: bool = False,
) -> Result:
    """Measure every way at every dimension, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for dimension in dimensions:
        for way in TITLES:
            if progress:
                print(f"s4gen: measuring {TITLES[way]}, dimension {dimension} ...", file=sys.stderr, flush=True)
            rows.append(measured(Case(way, dimension, length, batch, str(device), torch.get_num_threads(), budget)))
    return Result(machine(device), length, batch, rows)


def format_table(result: Result) -> str:
    """What `s4gen bench --ancestors` prints: the conditions, a table for each dimension, notes."""
    about = result.machine
    lines = [
        f"one training step (kernel and FFT convolution, forward and backward), N = H = dimension, "
        f"length {result.length}, batch {result.batch}, float32",
        f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, on {about['device']}",
        "paper: S4 (arXiv 2111.00396), table 2, on a GPU",
    ]
    for dimension in dict.fromkeys(row.dimension for row in result.rows):
        table = [[f"dimension {dimension}", *HEADER]]
        for row in result.rows:
            if row.dimension == dimension:
                numbers = (row.ms, row.peak_mb, *result.ratios(row), *published(row.way, dimension))
                table.append([TITLES[row.way], *map(number, numbers)])
        lines += ["", *aligned(table)]
    notes = [f"dimension {row.dimension}, {TITLES[row.way]}: {row.note}" for row in result.rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])
