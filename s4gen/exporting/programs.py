"""The step as ONNX and as a program of torch.export, each in a folder with what is needed to run it, and verified."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.exporting.step import Step, described, exported
from s4gen.sampling.convert import RecurrentModel

TOLERANCE = 1e-5
"""Allowed difference of a log-probability, times its size where that is above 1."""
TOLERANCE_OF_MIXTURES = 1e-3
"""The same for a mixture of logistics. A value has there the difference of two edges close to each other, of which
float32 leaves four digits; two programs that round an exponential differently differ by that."""
IMPOSSIBLE = -80.0
"""A log-probability below which there is none: float32 has no exponential of much less."""
CHECKED = 64
"""Tokens drawn greedily, and as many read, to compare on."""

Run = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""token (B,), state -> log-probabilities (B, V), new state: an exported step under the program that will run it."""


@dataclass(frozen=True)
class Check:
    """How an exported step compares with the eager engine's."""

    difference: float
    """Largest difference of a log-probability, relative to its size where that is above 1."""
    greedy_tokens: int
    """As many tokens came out the same."""
    tokens_per_second: float
    """One row, in this process, on this machine."""


def write_onnx(recurrent: RecurrentModel, folder: Path) -> Check | None:
    """Fill a folder with step.onnx, about.json and generate.py; None: it could not be checked, without onnxruntime.

    Raises:
        UserError: the package onnxscript is missing, the model cannot be exported, or what came out is not the model.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which writes ONNX: pip install 's4gen[export]'") from None
    program, step, initial = exported(recurrent)
    names = step.names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["token", *names],
            output_names=["log_probabilities", *(f"new.{name}" for name in names)],
        )
    assert made is not None
    made.save(folder / "step.onnx")
    _describe(recurrent, step, initial, folder, "run_onnx.py")
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "step.onnx", options, providers=["CPUExecutionProvider"])

    def run(token: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        fed = {"token": token.numpy(), **{name: x.numpy() for name, x in zip(names, state, strict=True)}}
        log_p, *new = (torch.from_numpy(x) for x in session.run(None, fed))
        return log_p, new

    return check(recurrent, step, run)


def write_torch(recurrent: RecurrentModel, folder: Path) -> Check:
    """Fill a folder with step.pt2, about.json and generate.py, which need PyTorch alone.

    Raises:
        UserError: the model cannot be exported, or what came out is not the model.
    """
    program, step, initial = exported(recurrent)
    torch.export.save(program, folder / "step.pt2")
    _describe(recurrent, step, initial, folder, "run_torch.py")
    loaded = torch.export.load(folder / "step.pt2").module()

    def run(token: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        log_p, *new = loaded(token, *state)
        return log_p, new

    return check(recurrent, step, run)


def _describe(recurrent: RecurrentModel, step: Step, initial: Sequence[Tensor], folder: Path, program: str) -> None:
    text = json.dumps(described(recurrent, step, initial), indent=2)
    (folder / "about.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(program), folder / "generate.py")


@torch.no_grad()
def check(recurrent: RecurrentModel, step: Step, run: Run) -> Check:
    """Draw greedily with both, and score sequences of two rows with both.

    Raises:
        UserError: the tokens differ, or log-probabilities differ by more than is allowed.
    """
    token, ours = torch.full((1,), recurrent.bos), recurrent.initial_state(1)
    theirs: Sequence[Tensor] = step.initial(recurrent, 1)
    worst, drawn, other = 0.0, [], token
    for _ in range(CHECKED):
        logits, ours = recurrent.step(token, ours)
        log_p, theirs = run(other, theirs)
        worst = max(worst, _difference(log_p, logits.log_softmax(-1)))
        token, other = logits.argmax(-1), log_p.argmax(-1)
        drawn.append(bool(token == other))
    random = torch.Generator().manual_seed(0)
    fed, ours, theirs = torch.full((2,), recurrent.bos), recurrent.initial_state(2), step.initial(recurrent, 2)
    for _ in range(CHECKED):
        logits, ours = recurrent.step(fed, ours)
        log_p, theirs = run(fed, theirs)
        worst = max(worst, _difference(log_p, logits.log_softmax(-1)))
        fed = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
    allowed = TOLERANCE_OF_MIXTURES if recurrent.config.model.head == "mixture" else TOLERANCE
    if not all(drawn) or not worst <= allowed:
        raise UserError(
            f"the exported step is not the model's: log-probabilities differ by {worst:.1e}, where {allowed:g} is "
            f"allowed, and {sum(drawn)} of {len(drawn)} greedy tokens are the same"
        )
    theirs, began = step.initial(recurrent, 1), time.perf_counter()
    for _ in range(CHECKED):
        log_p, theirs = run(other, theirs)
        other = log_p.argmax(-1)
    return Check(worst, sum(drawn), CHECKED / (time.perf_counter() - began))


def _difference(got: Tensor, want: Tensor) -> float:
    """Of log-probabilities; those of what is next to impossible count as equal, one of them may be -inf."""
    got, want = got.clamp_min(IMPOSSIBLE), want.clamp_min(IMPOSSIBLE)
    return float(((got - want).abs() / want.abs().clamp_min(1)).max())
