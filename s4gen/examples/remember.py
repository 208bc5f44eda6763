"""See what a HiPPO state remembers: run a signal through the recurrence, then read the past back from the last state.

    python -m s4gen.examples.remember [--measure legs|legt|lagt|fourier] [--d-state N] [-o remember.png]

For each measure, the recurrence that runs, and the past that is read back in the basis `s4gen.ssm.hippo.basis`:

    legs     dx/dt = (A x + B u) / t, over all of the past. In the logarithm of time this is dx/ds = A x + B u, to which
             the bilinear rule is applied with the steps log((k+1)/k) of the samples; the first sample is exact.
    legt     dx/dt = A x + B u by zero-order hold, over the window that it keeps; the signal began two windows earlier.
    fourier  the same. Sines and cosines cannot follow a signal that differs at the two ends of the window, so the error
             falls slowly, as 1/sqrt(N), and most of it is near the two ends.
    lagt     the same, but memory fades instead of ending: N functions follow frequency w back to about the age
             N / (w^2 + 1/4).
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from s4gen.cli.arguments import whole
from s4gen.cli.output import check_output
from s4gen.errors import UserError
from s4gen.examples.arguments import Parser
from s4gen.files.atomic import write_file_atomic
from s4gen.ssm import hippo, reference

SPANS = {"legs": 1.0, "legt": 2.0, "lagt": 150.0, "fourier": 2.0}
"""How long a past to read back, in the measure's own time; for lagt, one that 128 functions follow mostly."""

SAMPLES_PER_SPAN = 2048
"""Samples per span: so many that the error of the sampling stays below what is measured."""

CYCLES = 24
"""The highest frequency in the signal, in cycles per span."""

SIZES = (16, 32, 64, 128)
"""The state sizes in the table."""


class Recall(NamedTuple):
    """One span of a signal, and the same span read back from a state; r(SAMPLES_PER_SPAN) each, oldest first."""

    signal: Tensor
    recalled: Tensor

    @property
    def error(self) -> float:
        """The root mean square of the difference, relative to that of the signal."""
        return ((self.recalled - self.signal).norm() / self.signal.norm()).item()


def make_signal(spans: int) -> Tensor:
    """Return a band-limited signal, r(spans * SAMPLES_PER_SPAN), the same every time.

    It is made of waves of random frequency, the lower ones stronger.
    """
    generator = torch.Generator().manual_seed(0)
    frequency, phase, height = torch.rand(3, 64, dtype=torch.float64, generator=generator)
    frequency = CYCLES * frequency
    times = (torch.arange(spans * SAMPLES_PER_SPAN, dtype=torch.float64) + 0.5) / SAMPLES_PER_SPAN
    waves = torch.sin(2 * torch.pi * (frequency * times[:, None] + phase))
    return waves @ (height / (1 + frequency))


def remember(measure: str, d_state: int) -> Recall:
    """Drive a state of `d_state` numbers with the signal, then read its last span back from these numbers alone."""
    # LegS keeps all of the past. The others keep a window, or fade, and have to have forgotten how the signal began.
    signal = make_signal(1 if measure == "legs" else 3)
    span = SPANS[measure]
    state = whole_past_state(signal, d_state) if measure == "legs" else window_state(measure, signal, d_state, span)
    age = torch.arange(SAMPLES_PER_SPAN - 0.5, 0, -1, dtype=torch.float64) * (span / SAMPLES_PER_SPAN)
    return Recall(signal[-SAMPLES_PER_SPAN:], hippo.basis(measure, d_state, age) @ state)


def window_state(measure: str, signal: Tensor, d_state: int, span: float) -> Tensor:
    """Return the last state of dx/dt = A x + B u, r(d_state), with SAMPLES_PER_SPAN samples in a span."""
    transition, drive = reference.discretize(*hippo.dense(measure, d_state), span / SAMPLES_PER_SPAN, "zoh")
    return reference.scan(transition, drive, torch.zeros_like(drive), signal)[1]


def whole_past_state(signal: Tensor, d_state: int) -> Tensor:
    """Return the last state of dx/dt = (A x + B u) / t for LegS, r(d_state), by the bilinear rule in log t."""
    matrix, drive = hippo.dense("legs", d_state)
    identity = torch.eye(d_state, dtype=torch.float64)
    state = signal[0] * identity[0]  # one sample is a constant: its own mean, with all other coefficients 0
    for k, u in enumerate(signal[1:], start=1):
        step = math.log1p(1 / k)
        known = state + step / 2 * (matrix @ state) + step * u * drive
        state = torch.linalg.solve_triangular(identity - step / 2 * matrix, known[:, None], upper=False)[:, 0]
    return state


def draw(measure: str, recalls: dict[int, Recall]) -> bytes:
    """Return a PNG with one panel for each state size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6 * len(recalls)), layout="constrained")
    times = torch.arange(-SAMPLES_PER_SPAN + 0.5, 0) / SAMPLES_PER_SPAN
    panels = figure.subplots(len(recalls), squeeze=False)[:, 0]
    for axes, (d_state, recall) in zip(panels, recalls.items(), strict=True):
        axes.plot(times, recall.signal, color="#9ca3af", linewidth=2.5, label="signal")
        axes.plot(times, recall.recalled, color="#2563eb", linewidth=1.2, label="read back from the state")
        axes.set_title(f"{measure}, N = {d_state}: relative error {recall.error:.1e}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        # With few functions the curve overshoots at the ends, so let the signal alone set the scale.
        axes.set_ylim(1.3 * recall.signal.min().item(), 1.3 * recall.signal.max().item())
    axes.set_xlabel("time before the last sample, in spans")
    figure.axes[0].legend(frameon=False, fontsize=9, loc="upper left", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the errors, write the plot, and return the exit code: 0, or 2 for an error that the user can fix."""
    parser = Parser(
        prog="python -m s4gen.examples.remember",
        description="Read a signal back from the state that it left behind, and plot how well it is remembered.",
    )
    parser.add_argument("--measure", choices=tuple(SPANS), default="legs", help="default: legs")
    parser.add_argument(
        "--d-state", metavar="N", type=_even, default=64, help="plot states of N and of N/4 numbers (default: 64)"
    )
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, default=Path("remember.png"), help="the plot, a PNG")
    parser.add_argument("--force", action="store_true", help="write over an existing plot")
    args = parser.parse_args(argv)
    try:
        if args.out.suffix.lower() != ".png":
            raise UserError(f"{args.out}: the plot is written as PNG; use a name that ends in .png")
        check_output(args.out, args.force)
        print(f"{args.measure}: a signal of up to {CYCLES} cycles, read back from N numbers\n\n   N  relative error")
        for d_state in SIZES:
            print(f"{d_state:4d}  {remember(args.measure, d_state).error:14.1e}", flush=True)
        quarter = max(2, args.d_state // 8 * 2)
        drawn = {d_state: remember(args.measure, d_state) for d_state in sorted({quarter, args.d_state})}
        write_file_atomic(args.out, draw(args.measure, drawn))
    except UserError as error:
        return parser.refuse(str(error))
    print(f"\nwritten: {args.out}")
    return 0


def _even(text: str) -> int:
    value = whole(2)(text)
    if value % 2:
        raise argparse.ArgumentTypeError(f"got {text}, expected an even number: use {value + 1}")
    return value


if __name__ == "__main__":
    sys.exit(main())
