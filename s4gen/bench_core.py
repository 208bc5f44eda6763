"""What the state space core costs: `python -m s4gen.bench_core [--json FILE] [--quick]`.

Time and peak memory of kernels and layers against N, H and L, beside the plain ways to do the same: the kernel
materialised (all H x N/2 x L exponentials) and the convolution by FFT. Every row runs in a process of its own, with the
allocator as it comes (`s4gen.memory` makes all of them faster, the ones that allocate most the most).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4gen.apart import DiedError, run_apart
from s4gen.atomic import write_file_atomic
from s4gen.config import SSMConfig
from s4gen.models.ancestors import LSSL
from s4gen.models.ssm_layers import S4, S4D
from s4gen.ssm import block_form, diagonal, dplr
from s4gen.timing import PeakMemory, machine, median_seconds, seconds

Kernel = Callable[[Any, int], Tensor]  # (layer, L) -> r(H, L)


def naive_kernel(layer: S4D, L: int) -> Tensor:
    """2 Re(C Bbar exp(l dt Lambda)) with all H x n x L exponentials at once: the baseline of the S4D paper."""
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


# name: (layer class, kernel function)
KERNELS: dict[str, tuple[type, Kernel]] = {
    "S4D, factorised": (S4D, _factorised),
    "S4D, materialised": (S4D, naive_kernel),
    "S4, Krylov": (S4, _krylov),
    "S4, Cauchy tiles": (S4, _cauchy),
    "LSSL, Krylov": (LSSL, LSSL.kernel),
}
# name: (layer class, kernel function of the FFT form, or None for the block form)
LAYERS: dict[str, tuple[type, Kernel | None]] = {
    "S4D, blocks": (S4D, None),
    "S4D, factorised + FFT": (S4D, _factorised),
    "S4D, materialised + FFT": (S4D, naive_kernel),
    "S4, blocks": (S4, None),
    "S4, Krylov + FFT": (S4, _krylov),
    "LSSL, Krylov + FFT": (LSSL, LSSL.kernel),
}
BASELINE = "S4D, materialised"
MOST_SUMMANDS = 2**27
"""Heads times states times length beyond which Cauchy sums take minutes, and are left out."""


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    part: str  # kernel or layer
    method: str
    H: int
    N: int
    L: int
    batch: int
    device: str
    threads: int
    budget: float


@dataclass(frozen=True)
class Cost:
    """What it took; NaN where it did not run."""

    forward_ms: float
    forward_backward_ms: float
    peak_mb: float
    note: str = ""


def measure(case: Case) -> Cost:
    """Time and peak memory of one case in this process, which should be fresh."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    device = torch.device(case.device)
    kind, kernel = (KERNELS if case.part == "kernel" else LAYERS)[case.method]
    layer = kind(case.H, SSMConfig(d_state=case.N)).to(device)
    u = torch.randn(case.batch, case.L, case.H, device=device, requires_grad=True)
    gradient = torch.randn(case.H, case.L, device=device) if case.part == "kernel" else torch.randn_like(u)

    def forward() -> Tensor:
        if case.part == "kernel":
            assert kernel is not None
            return kernel(layer, case.L)
        if kernel is None:
            y: Tensor = layer(u)[0]
            return y
        return block_form.fft_convolve(u, kernel(layer, case.L)) + layer.D * u

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
    if first > 5 * case.budget:
        return Cost(1e3 * seconds(forward_only, device), 1e3 * first, peak, "timed once")
    there = median_seconds(forward_only, device, case.budget)[0]
    return Cost(1e3 * there, 1e3 * median_seconds(backward, device, case.budget)[0], peak)


def _warm_up(kind: type, kernel: Kernel | None, device: torch.device) -> None:
    """What the libraries load and keep for themselves belongs to no row: with a gradient given, that is 35 MB."""
    layer, u = kind(2, SSMConfig(d_state=4)).to(device), torch.randn(1, 32, 2, device=device)
    y = layer(u)[0] if kernel is None else block_form.fft_convolve(u, kernel(layer, 32))
    y.backward(torch.ones_like(y))


def measured(case: Case) -> Cost:
    """`measure` in a process of its own; a row without numbers, and with a note, where that is out of the question."""
    if case.method == "S4, Cauchy tiles" and case.H * case.N * case.L > MOST_SUMMANDS:
        return Cost(math.nan, math.nan, math.nan, "not run: takes minutes")
    try:
        return run_apart(measure, case)
    except (DiedError, MemoryError, RuntimeError) as error:
        return Cost(math.nan, math.nan, math.nan, str(error).splitlines()[0])


def cases(quick: bool, device: str) -> list[Case]:
    """The base case of the targets, then sweeps of L, N and H around a smaller one."""
    grid = [(256, 64, 3072, 8, 1.0)]
    if quick:
        grid = [(32, 16, 1024, 2, 0.2)]
    else:
        grid += [(64, 64, L, 1, 0.2) for L in (1024, 4096, 16384, 65536)]
        grid += [(64, N, 4096, 1, 0.2) for N in (16, 256)]
        grid += [(H, 64, 4096, 1, 0.2) for H in (256, 1024)]
    parts = [("kernel", name) for name in KERNELS] + [("layer", name) for name in LAYERS]
    return [
        Case(part, method, H, N, L, batch, device, torch.get_num_threads(), budget)
        for (H, N, L, batch, budget), (part, method) in itertools.product(grid, parts)
    ]


def growth(rows: Sequence[tuple[Case, Cost]], part: str, method: str) -> tuple[float, float] | None:
    """Fitted exponent of forward + backward time in L over the longest sweep, and that of L log L over the same."""
    sweep = [
        (c.L, r.forward_backward_ms)
        for c, r in rows
        if (c.part, c.method, c.H, c.batch, c.N) == (part, method, 64, 1, 64)
    ]
    sweep = [(L, ms) for L, ms in sweep if math.isfinite(ms) and L >= 4096]
    if len(sweep) < 3:
        return None

    def slope(values: list[float]) -> float:
        x = [math.log(L) for L, _ in sweep]
        y = [math.log(v) for v in values]
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        cross = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
        return cross / sum((a - mean_x) ** 2 for a in x)

    return slope([ms for _, ms in sweep]), slope([L * math.log(L) for L, _ in sweep])


def growths(rows: Sequence[tuple[Case, Cost]]) -> dict[str, tuple[float, float]]:
    """`growth` of every method that was measured at enough lengths, by "part: method"."""
    ways = [(part, method) for part, methods in (("kernel", KERNELS), ("layer", LAYERS)) for method in methods]
    fitted = {f"{part}: {method}": growth(rows, part, method) for part, method in ways}
    return {way: exponents for way, exponents in fitted.items() if exponents}


def report(rows: Sequence[tuple[Case, Cost]]) -> str:
    """The table: one block for each size, times and memory, and the ratio to the materialised kernel's row."""
    lines: list[str] = []
    for size, group in itertools.groupby(rows, key=lambda row: (row[0].H, row[0].N, row[0].L, row[0].batch)):
        members = list(group)
        H, N, L, batch = size
        lines += ["", f"H = {H}, N = {N}, L = {L:,}, batch {batch}"]
        lines.append(f"  {'':32}{'forward ms':>12}{'+ backward':>12}{'peak MB':>10}{'time/base':>11}{'MB/base':>9}")
        for part in ("kernel", "layer"):
            base = next(r for c, r in members if c.part == part and c.method.startswith(BASELINE))
            for case, row in members:
                if case.part != part:
                    continue
                time, memory = row.forward_backward_ms / base.forward_backward_ms, row.peak_mb / base.peak_mb
                lines.append(
                    f"  {part + ': ' + case.method:32}{row.forward_ms:12.1f}{row.forward_backward_ms:12.1f}"
                    f"{row.peak_mb:10.0f}{time:11.3f}{memory:9.3f}  {row.note}".rstrip()
                )
    lines.append("")
    for way, (fitted, linearithmic) in growths(rows).items():
        lines.append(f"{way}: time grows as L^{fitted:.2f} (L log L: L^{linearithmic:.2f} here)")
    return "\n".join(lines)


def to_json(about: dict[str, str | int], rows: Sequence[tuple[Case, Cost]]) -> str:
    """Machine, rows and growth as JSON, which knows no NaN: null where a row did not run."""
    table = [
        {key: None if value != value else value for key, value in (asdict(case) | asdict(cost)).items()}
        for case, cost in rows
    ]
    return json.dumps({"machine": about, "rows": table, "growth": growths(rows)}, indent=2, allow_nan=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="s4gen.bench_core",
        description="What the state space core costs: `python -m s4gen.bench_core [--json FILE] [--quick]`.",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    parser.add_argument("--quick", action="store_true", help="one small size only")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for case in cases(args.quick, device):
        print(f"{case.part}: {case.method}, H {case.H}, N {case.N}, L {case.L} ...", file=sys.stderr, flush=True)
        rows.append((case, measured(case)))
    about = machine(torch.device(device))
    print(f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, float32, on {about['device']}")
    print(report(rows))
    if args.json:
        write_file_atomic(args.json, to_json(about, rows).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
