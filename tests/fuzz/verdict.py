"""What became of a command that read a damaged file."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERDICTS = ("refused", "accepted", "crashed", "hung", "nonsense")
GOOD = VERDICTS[:2]
LONGEST_LINE = 2100
"""Characters of a message; a longer one quotes a file instead of speaking about it."""
PASSING = ("seconds", "checkpoint", "dataset", "file", "out", "name", "engine", "tokens_per_second")
"""Keys of results that are not the same in two runs of one command."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: bytes
    """What it wrote to standard output."""
    err: str
    """What it wrote to standard error."""


def judge(outcome: Outcome, folder: Path, good: Any, exact: bool) -> tuple[str, str]:
    """Return one of `VERDICTS`, and why.

    `good` is the result of the same command with the good file, and None if there is none to compare with.
    """
    lines = [line for line in outcome.err.split("\n") if line and "\r" not in line]  # a bar begins with \r
    errors = [line for line in lines if line.startswith("s4gen: error: ")]
    foreign = [line for line in lines if not line.startswith(("s4gen: ", "best at step "))]
    if "Traceback" in outcome.err or outcome.code not in (0, 2):
        return "crashed", f"exit code {outcome.code}: {lines[-1][:300] if lines else ''}"
    if "out of memory" in outcome.err:
        return "crashed", f"takes too much memory: {errors}"
    if any(len(line) > LONGEST_LINE for line in lines):
        return "crashed", f"a line of {max(map(len, lines))} characters"
    if foreign:
        return "crashed", f"a line that is not s4gen's: {foreign[0][:300]}"
    if any(ord(character) < 32 for line in lines for character in line):
        return "crashed", f"control characters in a message: {lines}"
    if outcome.code == 2:
        if len(errors) != 1:
            return "crashed", f"exit code 2 with {len(errors)} lines of error"
        return "refused", errors[0]
    try:
        found = result_of(outcome, folder)
    except Exception as error:
        return "nonsense", f"the result cannot be read: {type(error).__name__} {error}"
    if wrong := _insane(found):
        return "nonsense", wrong
    if exact and good is not None and found != good:
        return "nonsense", f"another result than that of the good file: {found} and not {good}"[:600]
    return "accepted", ""


def result_of(outcome: Outcome, folder: Path) -> Any:
    """Return the result of a command that ended well: JSON from standard output, or what the file holds that it wrote.

    Raises:
        Exception: there is none, or another one than a good file's.
    """
    if (path := folder / "out.png").exists():
        from PIL import Image

        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return image.size, image.tobytes().hex()
    if (path := folder / "out.jsonl").exists():
        return [_lasting(json.loads(line)) for line in path.read_text("utf-8").split("\n") if line]
    if outcome.out.startswith(b"{"):
        return _lasting(json.loads(outcome.out))
    if not outcome.out and not (folder / "run").exists():
        raise ValueError("there is none")
    return outcome.out.hex() if len(outcome.out) < 10_000 else len(outcome.out)


def _lasting(value: Any) -> Any:
    """Leave out what differs from run to run."""
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return value


def _insane(value: Any, key: str = "") -> str:
    """Return what is wrong with numbers: one is missing, for which null stands, not finite, or less bits than none."""
    if isinstance(value, dict):
        if value.get("bits_per_byte") is not None:
            # exp of the same nats, which may be more than a float64 can hold: a text of one long word.
            value = {name: item for name, item in value.items() if not name.endswith("perplexity")}
        # What stands in metrics.json is shown and not used, so it may be anything.
        return next(filter(None, (_insane(item, name) for name, item in value.items() if name != "metrics")), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (_insane(item, key) for item in value)), "")
    if key.startswith(("bits", "perplexity", "word_perplexity", "nats", "log_prob")):
        if type(value) not in (int, float) or not math.isfinite(value):
            return f"{key} = {value}"
        if value < -1e-3 and key != "log_probabilities":
            return f"{key} = {value}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{key} = {value}"
    return ""
