"""Where the numbers are that the reference implementation computed."""

from __future__ import annotations

import os
from pathlib import Path

OWN = Path(__file__).parent / "reference"
"""What every checkout has: fewer features, and shorter sequences, of the same systems (see its README)."""
BESIDE = Path(os.environ.get("S4GEN_FIXTURES", Path(__file__).parents[2] / "shared" / "fixtures"))
"""All of them, beside the project or where S4GEN_FIXTURES says; or nowhere."""


def reference_file(name: str) -> Path:
    """Find a file of numbers: the whole one if it is there, else what every checkout has of it."""
    return BESIDE / name if (BESIDE / name).is_file() else OWN / name


def reference_files(pattern: str) -> list[Path]:
    """Find all files of numbers whose names fit the pattern, sorted by name."""
    names = {path.name for folder in (OWN, BESIDE) for path in folder.glob(pattern)}
    return [reference_file(name) for name in sorted(names)]
