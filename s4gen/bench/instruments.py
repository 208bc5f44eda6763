"""The instruments of every benchmark: the median time of a call, the peak memory, and the name of the machine."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from s4gen.machine.timing import seconds
from s4gen.showing.words import plural

_GROUP_SECONDS = 5e-3
"""Calls are timed in groups at least this long, so that neither the clock nor a GPU synchronisation shows."""
MB = 1e6
"""Bytes."""


def median_seconds(
    work: Callable[[], object], device: torch.device, budget: float, *, max_calls: int = 100_000
) -> tuple[float, int]:
    """Return the median wall time of one call in seconds, and how many calls were timed.

    Two calls warm up (a single one if that takes the budget already). Then groups of calls are timed until `budget`
    seconds or `max_calls` are used up. There are at least three groups, so a slow call is timed three times. A call
    that takes more than ten times the budget is timed once, with nothing before it.
    """
    first = seconds(work, device)
    if first > 10 * budget > 0:
        return first, 1
    # The first call may have loaded or compiled something, so where time allows a second one says how long a call is.
    estimate = first if first > budget else seconds(work, device)
    group = min(max(1, round(_GROUP_SECONDS / max(estimate, 1e-9))), max(1, max_calls // 3))

    def call_group() -> None:
        for _ in range(group):
            work()

    times: list[float] = []
    while len(times) < 3 or (sum(times) * group < budget and (len(times) + 1) * group <= max_calls):
        times.append(seconds(call_group, device) / group)
    return statistics.median(times), len(times) * group


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Catch what is printed inside the block, where compilers tell much; their warnings are left out."""
    lines = io.StringIO()
    with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lines


class PeakMemory:
    """The peak of memory in use above the level at construction, in MB (10^6 bytes).

    On a GPU it is the tensors' memory by the allocator's own count; otherwise it is the resident memory of this
    process. That means something only in a process that has not yet done anything big, because not all freed memory
    goes back to the system.
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
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present resident memory
        except OSError:
            return  # not Linux, or not allowed: the peak since the process started, as documented in `mb`

    def mb(self) -> float:
        """Return the peak since the last reset; where the system cannot reset (not Linux), since construction."""
        return max(0.0, self._peak() - self._level)

    def _peak(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MB
        return process_peak_mb()


def process_peak_mb() -> float:
    """Return the peak resident memory of this process in MB (10^6 bytes)."""
    # ru_maxrss would be inherited from the process that started this one; VmHWM is its own.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MB
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024) / MB


def machine(device: torch.device) -> dict[str, str | int]:
    """Return the conditions that a speed must be told with: the processor, threads and versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def machine_line(about: dict[str, str | int], *more: str) -> str:
    """Return the line about `machine` that stands above a table, with `more` conditions of the measurement in it."""
    conditions = [f"{about['cpu']}, {plural(int(about['threads']), 'thread')}, torch {about['torch']}", *more]
    return f"{', '.join(conditions)}, on {about['device']}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
