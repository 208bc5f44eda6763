"""The benchmark of the core: what kernels and layers cost against state size N, features H and length L.

Beside our ways stand the plain ones that do the same: the kernel materialised (all H x N/2 x L exponentials at once),
and the convolution by FFT. A kernel is timed alone, a layer on a batch of random inputs; each forward without gradients
and forward with backward, the median over calls. Peak memory is that of the first forward and backward. Every workload
runs in a process of its own, with the allocator as it comes: `s4gen.machine.memory` would make all of them faster,
and most of all those that allocate most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from s4gen.bench.apart import DiedError, run_apart
from s4gen.bench.instruments import PeakMemory, machine, machine_line, median_seconds
from s4gen.config import SSMConfig
from s4gen.machine.device import best_device
from s4gen.machine.timing import seconds
from s4gen.models.lssl_dss import LSSL
from s4gen.models.ssm_layers import S4, S4D
from s4gen.showing.progress import progress_bar
from s4gen.ssm import block_form, diagonal, dplr

Kernel = Callable[[Any, int], Tensor]
"""A way to make a kernel: (layer, L) -> r(H, L)."""


def naive_kernel(layer: S4D, L: int) -> Tensor:
    """Return 2 Re(C Bbar exp(l dt Lambda)) from all H x n x L exponentials at once: the baseline of the S4D paper."""
    Lambda, B, C, dt = layer.continuous()
    z = dt[:, None] * Lambda
    coefficient = C * B * (torch.exp(z) - 1) / Lambda
    powers = torch.exp(z[..., None] * torch.arange(L, device=z.device))
    return 2 * torch.einsum("hn,hnl->hl", coefficient, powers).real


def _krylov(layer: S4, L: int) -> Tensor:
    Lambda, B, C, dt = layer.continuous()
    return dplr.krylov_kernel(Lambda, layer.low_rank(), B, C, dt, L)


def _cauchy(layer: S4, L: int) -> Tensor:
    Lambda, B, C, dt = layer.continuous()
    return dplr.cauchy_kernel(Lambda, layer.low_rank(), B, C, dt, L)


def _factorised(layer: S4D, L: int) -> Tensor:
    return diagonal.kernel(*layer.continuous(), L, "zoh")


KERNELS: dict[str, tuple[type, Kernel]] = {
    "S4D, factorised": (S4D, _factorised),
    "S4D, materialised": (S4D, naive_kernel),
    "S4, Krylov": (S4, _krylov),
    "S4, Cauchy tiles": (S4, _cauchy),
    "LSSL, Krylov": (LSSL, LSSL.kernel),
}
"""Kernels that are measured, by name: the layer's class and its kernel."""
LAYERS: dict[str, tuple[type, Kernel | None]] = {
    "S4D, blocks": (S4D, None),
    "S4D, factorised + FFT": (S4D, _factorised),
    "S4D, materialised + FFT": (S4D, naive_kernel),
    "S4, blocks": (S4, None),
    "S4, Krylov + FFT": (S4, _krylov),
    "LSSL, Krylov + FFT": (LSSL, LSSL.kernel),
}
"""Layers that are measured, by name: the class, and the kernel of the FFT form; None: the block form."""
BASELINE = "S4D, materialised"
"""The start of the names to which others are compared."""
MOST_SUMMANDS = 2**27
"""Heads times states times length beyond which Cauchy sums take minutes, and are left out."""


@dataclass(frozen=True)
class CoreWorkload:
    """A kernel or a layer at one size."""

    part: str
    """kernel or layer."""
    method: str
    """A key of KERNELS or of LAYERS."""
    H: int
    N: int
    L: int
    batch: int
    device: str
    threads: int
    budget: float
    """Seconds to measure each of both times for; a step that takes more than five times that is timed once."""


@dataclass(frozen=True)
class CoreMeasurement:
    """The cost of a workload; NaN where it did not run."""

    forward_ms: float
    """Milliseconds of a forward pass without gradients."""
    forward_backward_ms: float
    """Milliseconds of a forward pass and the gradients of all parameters, and of the input of a layer."""
    peak_mb: float
    """Peak memory of forward and backward, above the level before (10^6 bytes)."""
    note: str = ""


@dataclass(frozen=True)
class CoreResult:
    """Everything that one call of `run` measured."""

    machine: dict[str, str | int]
    """The processor, threads and versions: `instruments.machine`."""
    rows: list[tuple[CoreWorkload, CoreMeasurement]]

    def growth(self, part: str, method: str) -> tuple[float, float] | None:
        """Fit the exponent of the time of forward and backward in L; None where too few lengths were measured.

        It is fitted by least squares on logarithms over the sweep of L, from 4096 up, where constant costs do not show
        any more. Beside it stands the exponent that L log L would have over the same lengths.
        """
        sweep = [
            (workload.L, measured.forward_backward_ms)
            for workload, measured in self.rows
            if (workload.part, workload.method) == (part, method)
            and (workload.H, workload.N, workload.batch) == (64, 64, 1)
        ]
        sweep = [(L, ms) for L, ms in sweep if math.isfinite(ms) and L >= 4096]
        if len(sweep) < 3:
            return None
        lengths = [float(L) for L, _ in sweep]
        return _slope(lengths, [ms for _, ms in sweep]), _slope(lengths, [L * math.log(L) for L in lengths])

    def growths(self) -> dict[str, tuple[float, float]]:
        """Return `growth` of every method that was measured at enough lengths, by "part: method"."""
        ways = [(part, method) for part, methods in (("kernel", KERNELS), ("layer", LAYERS)) for method in methods]
        fitted = {f"{part}: {method}": self.growth(part, method) for part, method in ways}
        return {way: exponents for way, exponents in fitted.items() if exponents}

    def to_dict(self) -> dict[str, Any]:
        """Return machine, rows and growth for JSON."""
        rows = [asdict(workload) | asdict(measured) for workload, measured in self.rows]
        return {"machine": self.machine, "rows": rows, "growth": self.growths()}

    def table(self) -> str:
        """Return what `s4gen bench core` prints.

        There is one block for each size, with times, memory and their ratios to the materialised kernel's row, and
        then how the times grow.
        """
        lines = [machine_line(self.machine, "float32")]
        for (H, N, L, batch), group in itertools.groupby(self.rows, key=lambda row: _size(row[0])):
            rows = list(group)
            lines += ["", f"H = {H}, N = {N}, L = {L:,}, batch {batch}"]
            lines.append(f"  {'':32}{'forward ms':>12}{'+ backward':>12}{'peak MB':>10}{'time/base':>11}{'MB/base':>9}")
            for part in ("kernel", "layer"):
                base = next(m for w, m in rows if w.part == part and w.method.startswith(BASELINE))
                lines += [_line(workload, measured, base) for workload, measured in rows if workload.part == part]
        lines.append("")
        for way, (fitted, linearithmic) in self.growths().items():
            lines.append(f"{way}: time grows as L^{fitted:.2f} (L log L: L^{linearithmic:.2f} here)")
        return "\n".join(lines)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the line through (log x, log y), by least squares."""
    x, y = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    cross = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return cross / sum((a - mean_x) ** 2 for a in x)


def _size(workload: CoreWorkload) -> tuple[int, int, int, int]:
    return workload.H, workload.N, workload.L, workload.batch


def _line(workload: CoreWorkload, measured: CoreMeasurement, base: CoreMeasurement) -> str:
    """Return the line of one measurement in the table of its size."""
    time, memory = measured.forward_backward_ms / base.forward_backward_ms, measured.peak_mb / base.peak_mb
    return (
        f"  {workload.part + ': ' + workload.method:32}{measured.forward_ms:12.1f}{measured.forward_backward_ms:12.1f}"
        f"{measured.peak_mb:10.0f}{time:11.3f}{memory:9.3f}  {measured.note}".rstrip()
    )


def run(quick: bool = False, *, progress: bool = False) -> CoreResult:
    """Measure every kernel and every layer at all sizes, on the GPU where there is one.

    Args:
        quick: one small size alone.
        progress: whether to show a bar on standard error, with the time that is left and what is being measured.
    """
    device = best_device()
    rows = []
    planned = workloads(quick, str(device))
    with progress_bar(len(planned), "measurement", progress, "measuring") as bar:
        for workload in planned:
            what = f"{workload.part}: {workload.method}, H {workload.H}, N {workload.N}, L {workload.L}"
            bar.set_postfix_str(what, refresh=True)
            rows.append((workload, measure_apart(workload)))
            bar.update(1)
    return CoreResult(machine(device), rows)


def workloads(quick: bool, device: str) -> list[CoreWorkload]:
    """Return the base size, at which goals are set, then sweeps of L, N and H around a smaller one."""
    grid = [(256, 64, 3072, 8, 1.0)]
    if quick:
        grid = [(32, 16, 1024, 2, 0.2)]
    else:
        grid += [(64, 64, L, 1, 0.2) for L in (1024, 4096, 16384, 65536)]
        grid += [(64, N, 4096, 1, 0.2) for N in (16, 256)]
        grid += [(H, 64, 4096, 1, 0.2) for H in (256, 1024)]
    parts = [("kernel", name) for name in KERNELS] + [("layer", name) for name in LAYERS]
    return [
        CoreWorkload(part, method, H, N, L, batch, device, torch.get_num_threads(), budget)
        for (H, N, L, batch, budget), (part, method) in itertools.product(grid, parts)
    ]


def measure_apart(workload: CoreWorkload) -> CoreMeasurement:
    """Return what `measure` gives in a fresh process.

    A workload that takes minutes, or whose process ends or fails, gives a measurement without numbers, with a note.
    """
    if workload.method == "S4, Cauchy tiles" and workload.H * workload.N * workload.L > MOST_SUMMANDS:
        return CoreMeasurement(math.nan, math.nan, math.nan, "not run: takes minutes")
    try:
        return run_apart(measure, workload)
    except (DiedError, MemoryError, RuntimeError) as error:
        return CoreMeasurement(math.nan, math.nan, math.nan, str(error).splitlines()[0])


def measure(workload: CoreWorkload) -> CoreMeasurement:
    """Measure in this process. Only in a fresh process is the peak memory that of the workload alone."""
    torch.set_num_threads(workload.threads)
    torch.manual_seed(0)
    device, L = torch.device(workload.device), workload.L
    kind, kernel = (KERNELS if workload.part == "kernel" else LAYERS)[workload.method]
    layer = kind(workload.H, SSMConfig(d_state=workload.N)).to(device)
    u = torch.randn(workload.batch, L, workload.H, device=device, requires_grad=True)
    gradient = torch.randn(workload.H, L, device=device) if workload.part == "kernel" else torch.randn_like(u)

    def forward() -> Tensor:
        if workload.part == "kernel":
            assert kernel is not None
            return kernel(layer, L)
        if kernel is None:
            y: Tensor = layer(u)[0]
            return y
        return block_form.fft_convolve(u, kernel(layer, L)) + layer.D * u

    def backward() -> None:
        for tensor in (u, *layer.parameters()):
            tensor.grad = None
        forward().backward(gradient)

    def forward_only() -> None:
        with torch.no_grad():
            forward()

    _warm_up(kind, kernel, device)
    memory = PeakMemory(device)
    first = seconds(backward, device)
    peak = memory.mb()
    if first > 5 * workload.budget:
        return CoreMeasurement(1e3 * seconds(forward_only, device), 1e3 * first, peak, "timed once")
    forward_ms = 1e3 * median_seconds(forward_only, device, workload.budget)[0]
    return CoreMeasurement(forward_ms, 1e3 * median_seconds(backward, device, workload.budget)[0], peak)


def _warm_up(kind: type, kernel: Kernel | None, device: torch.device) -> None:
    """Load what the libraries keep for themselves, which belongs to no workload: a given gradient alone takes 35 MB."""
    layer, u = kind(2, SSMConfig(d_state=4)).to(device), torch.randn(1, 32, 2, device=device)
    y = layer(u)[0] if kernel is None else block_form.fft_convolve(u, kernel(layer, 32))
    y.backward(torch.ones_like(y))
