"""Counters of the server, as the text that Prometheus reads."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: the upper ends of the buckets in which requests are counted by their duration."""
HELP = {
    "requests_total": "Requests that have been answered, by path and status.",
    "tokens_total": "Tokens drawn, by model.",
    "refused_total": "Requests refused for lack of room, by reason.",
    "dropped_total": "Requests whose client has gone, or did not read, before the end.",
    "steps_total": "Steps of sessions.",
    "step_seconds_total": "Seconds spent in these steps.",
}

Key = tuple[str, tuple[tuple[str, str], ...]]


class Metrics:
    """The counts since the server began. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Key, float] = {}
        self._durations = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter `s4gen_NAME_total` with these labels."""
        key = (f"{name}_total", tuple(sorted(labels.items())))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + amount

    def stepped(self, steps: int, seconds: float) -> None:
        """Count steps of a session and how long they took."""
        self.count("steps", steps)
        self.count("step_seconds", seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request, by its path (one that is known, or "other") and its status."""
        self.count("requests", path=path, status=str(status))
        with self._lock:
            self._durations[sum(seconds > end for end in BUCKETS)] += 1
            self._seconds += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return everything in the text format of Prometheus, version 0.0.4; `gauges` are the values of now."""
        with self._lock:
            counts, durations, seconds = dict(self._counts), list(self._durations), self._seconds
        lines = []
        for name, help in HELP.items():
            lines += [f"# HELP s4gen_{name} {help}", f"# TYPE s4gen_{name} counter"]
            found = sorted((labels, value) for (key, labels), value in counts.items() if key == name)
            lines += [f"s4gen_{name}{_labels(dict(labels))} {value:.10g}" for labels, value in found]
        lines += ["# HELP s4gen_request_seconds How long requests took.", "# TYPE s4gen_request_seconds histogram"]
        below = 0
        for end, n in zip([*map(str, BUCKETS), "+Inf"], durations, strict=True):
            below += n
            lines.append(f's4gen_request_seconds_bucket{{le="{end}"}} {below}')
        lines += [f"s4gen_request_seconds_sum {seconds:.10g}", f"s4gen_request_seconds_count {below}"]
        for name, value in {**gauges, "resident_bytes": resident_bytes()}.items():
            lines += [f"# TYPE s4gen_{name} gauge", f"s4gen_{name} {value:.10g}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Return the memory that this process holds now; where that is not known, the most that it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items())
    return f"{{{inside}}}" if inside else ""
