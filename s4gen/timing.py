"""Measuring: a monotonic clock, warm-up, medians, and the peak memory of this process or GPU."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

# Calls are timed in groups at least this long, so that neither the clock nor a GPU synchronisation shows.
_GROUP_SECONDS = 5e-3
_MB = 1e6
# Fewest calls of which the best is taken, and the sizes of the matrices whose products are timed.
_PASSES = 5
_MATRICES = (512, 1024)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with everything that it started on the device."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def median_seconds(
    work: Callable[[], object], device: torch.device, budget: float, *, max_calls: int = 100_000
) -> tuple[float, int]:
    """Median wall time of one call, and how many calls were timed.

    Two calls warm up (one alone if it takes the budget already). Then groups of calls are timed until
    `budget` seconds or `max_calls` are used up; at least three groups, so a slow call is timed thrice.
    A call that takes more than ten times the budget is timed once, without anything before it.
    """
    first = seconds(work, device)
    if first > 10 * budget > 0:
        return first, 1
    estimate = first if first > budget else seconds(work, device)
    group = min(max(1, round(_GROUP_SECONDS / max(estimate, 1e-9))), max(1, max_calls // 3))

    def call_group() -> None:
        for _ in range(group):
            work()

    times: list[float] = []
    while len(times) < 3 or (sum(times) * group < budget and (len(times) + 1) * group <= max_calls):
        times.append(seconds(call_group, device) / group)
    return statistics.median(times), len(times) * group


def best_seconds(work: Callable[[], object], device: torch.device, budget: float) -> float:
    """The shortest wall time of a call, of at least a few in `budget` seconds: what the machine can do undisturbed."""
    seconds(work, device)
    deadline, best, passes = time.perf_counter() + budget, float("inf"), 0
    while passes < _PASSES or time.perf_counter() < deadline:
        best, passes = min(best, seconds(work, device)), passes + 1
    return best


def product_rate(dtype: torch.dtype, device: torch.device, budget: float, sizes: Sequence[int] = _MATRICES) -> float:
    """Floating-point operations per second of a matrix product, of the best of a few square sizes, measured.

    It takes about `budget` seconds, and leaves the global random state as it was.
    """
    generator = torch.Generator(device).manual_seed(0)

    def rate(n: int) -> float:
        a, b = torch.rand(2, n, n, generator=generator, device=device).to(dtype)
        out = torch.empty_like(a)
        return 2 * n**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, budget / len(sizes))

    return max(map(rate, sizes))


class PeakMemory:
    """Peak memory in use above the level at construction, in MB (10^6 bytes).

    On a GPU the tensors' memory by the allocator's own count; else the resident memory of this process, which
    is meaningful only in a process that has not yet done anything big (freed memory does not all go back).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.init()
        self.reset()
        self._level = self._peak()

    def reset(self) -> None:
        """Forget earlier peaks; the level stays."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return  # not Linux, or not allowed: the peak since the process started, as documented in `mb`

    def mb(self) -> float:
        """The peak since the last reset; where the system cannot reset (not Linux), since construction."""
        return max(0.0, self._peak() - self._level)

    def _peak(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MB
        return process_peak_mb()


def process_peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    # ru_maxrss would be inherited from the process that started this one; VmHWM is its own.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _MB
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024) / _MB


def machine(device: torch.device) -> dict[str, str | int]:
    """What a speed needs beside it: the processor, threads and versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
