"""Write the step as ONNX or as a program of torch.export, with a script that runs it, and check what was written."""

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
"""Allowed difference for a mixture of logistics, which gives each value the difference of two close edges.

float32 leaves four digits of that difference, so two programs that round an exponential differently are that far apart.
"""
IMPOSSIBLE = -80.0
"""Log-probability in nats below which a token counts as impossible: exp(-87) is the smallest normal float32."""
CHECKED = 64
"""Number of tokens that are drawn greedily, and of tokens that are read, to compare the two steps."""

Run = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""An exported step under its own runtime: token (B,) and state -> log-probabilities r(B, V) and new state."""


@dataclass(frozen=True)
class Check:
    """The result of comparing an exported step with the eager engine."""

    difference: float
    """Largest difference of a log-probability, relative to its size where that is above 1."""
    greedy_tokens: int
    """Number of greedy tokens, of `CHECKED`, that are the same."""
    tokens_per_second: float
    """Speed of the exported step for one row in this process."""


def write_onnx(recurrent: RecurrentModel, folder: Path) -> Check | None:
    """Fill a folder with step.onnx, about.json and generate.py, and check the step.

    Returns None if onnxruntime is not installed: what was written could then not be checked.

    Raises:
        UserError: onnx or onnxscript is missing, the model cannot be exported, or the exported step differs from it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"writing ONNX needs {error.name}, which is missing: pip install 's4gen[export]'") from None
    program, step, initial = exported(recurrent)
    names = step.names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals; the check below is what counts
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
    """Fill a folder with step.pt2, about.json and generate.py, which need PyTorch alone, and check the step.

    Raises:
        UserError: the model cannot be exported, or the exported step differs from it.
    """
    program, step, initial = exported(recurrent)
    torch.export.save(program, folder / "step.pt2")
    _describe(recurrent, step, initial, folder, "run_torch.py")
    # The file is checked, not the program in memory: saving and loading are a part of what may go wrong.
    loaded = torch.export.load(folder / "step.pt2").module()

    def run(token: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        log_p, *new = loaded(token, *state)
        return log_p, new

    return check(recurrent, step, run)


def _describe(recurrent: RecurrentModel, step: Step, initial: Sequence[Tensor], folder: Path, program: str) -> None:
    """Write about.json, and copy the script `program` of this package as generate.py."""
    text = json.dumps(described(recurrent, step, initial), indent=2)
    (folder / "about.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(program), folder / "generate.py")


@torch.no_grad()
def check(recurrent: RecurrentModel, step: Step, run: Run) -> Check:
    """Compare an exported step with the model: greedy drawing of one row, then random tokens in two rows.

    Raises:
        UserError: the tokens differ, or log-probabilities differ by more than is allowed.
    """
    # Each draws from its own logits, so that a difference may grow as it would in use.
    token, ours = torch.full((1,), recurrent.bos), recurrent.initial_state(1)
    theirs: Sequence[Tensor] = step.initial(recurrent, 1)
    worst, drawn, other = 0.0, [], token
    for _ in range(CHECKED):
        logits, ours = recurrent.step(token, ours)
        log_p, theirs = run(other, theirs)
        worst = max(worst, _difference(log_p, logits.log_softmax(-1)))
        token, other = logits.argmax(-1), log_p.argmax(-1)
        drawn.append(bool(token == other))
    # Greedy tokens soon repeat. Here both read the same random tokens, in two rows: the number of rows must be free.
    random = torch.Generator().manual_seed(0)
    fed, ours, theirs = torch.full((2,), recurrent.bos), recurrent.initial_state(2), step.initial(recurrent, 2)
    for _ in range(CHECKED):
        logits, ours = recurrent.step(fed, ours)
        log_p, theirs = run(fed, theirs)
        worst = max(worst, _difference(log_p, logits.log_softmax(-1)))
        fed = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
    allowed = TOLERANCE_OF_MIXTURES if recurrent.config.model.head == "mixture" else TOLERANCE
    if not all(drawn) or not worst <= allowed:  # `not <=`, so that a NaN is refused, too
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
    """Return the largest difference of log-probabilities, relative to their size where that is above 1."""
    # Next to zero one program has -100 and the other -inf, and neither is ever drawn: both count as `IMPOSSIBLE`.
    got, want = got.clamp_min(IMPOSSIBLE), want.clamp_min(IMPOSSIBLE)
    return float(((got - want).abs() / want.abs().clamp_min(1)).max())
