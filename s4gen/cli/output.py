"""Print results as JSON, and check before any work that a result can be written and nothing is overwritten."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4gen.config.names import REFUSED_IMAGES, WRITTEN_IMAGES
from s4gen.errors import UserError
from s4gen.files.atomic import destination


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of standard output; what is not a finite number becomes null."""
    print(json_text(values))


def json_text(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Return one JSON object, in which null stands for what is not a finite number: JSON knows no NaN."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def shows_progress() -> bool:
    """Return whether standard error is a terminal, so that somebody may be watching a progress bar."""
    return sys.stderr.isatty()


def _finite(value: Any) -> Any:
    """Return the value with None in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output(out: Path, overwrite: bool) -> None:
    """Check, before any work, that images can be written to `out`, a .png file or a folder.

    Raises:
        UserError: `out` exists and `overwrite` is not set, has another suffix of images, is a file where a folder is
            wanted or the reverse, or its folder is not writable.
    """
    if out.suffix.lower() in REFUSED_IMAGES:
        raise UserError(f"{out}: images are written as PNG; use a name that ends in .png, or a folder")
    is_file = out.suffix.lower() in WRITTEN_IMAGES
    if out.exists():
        if out.is_dir() == is_file:
            raise UserError(f"{out} is a {'folder' if is_file else 'file'}; choose another name")
        if not overwrite and (is_file or any(out.iterdir())):
            raise UserError(f"{out} exists; choose another name, or write over it with --force")
    _check_folder(out)


def check_file(out: Path, overwrite: bool) -> None:
    """Check, before any work, that the file `out` can be written, whatever its suffix.

    Raises:
        UserError: `out` exists and `overwrite` is not set, is a folder, or its folder is not writable.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; choose another name")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another name, or write over it with --force")
    _check_folder(out)


def check_folder(out: Path, overwrite: bool) -> None:
    """Check, before any work, that the folder `out` can be made or replaced.

    Raises:
        UserError: `out` holds something and `overwrite` is not set, is a file, or the folder above it is not writable.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another name")
    if out.exists() and not overwrite and any(out.iterdir()):
        raise UserError(f"{out} exists; choose another name, or write over it with --force")
    _check_folder(out)


def _check_folder(out: Path) -> None:
    """Check that the nearest folder above `out` that exists can be written to; the missing ones will be made in it."""
    destination(out)
    above = next(path for path in ([out] if out.is_dir() else out.parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"cannot write {out}: {above} is a file")
    if not os.access(above, os.W_OK):
        raise UserError(f"cannot write {out}: no permission to write to {above}")
