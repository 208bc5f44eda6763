"""Where data sets are: the user's copies (`S4GEN_DATA`), and the cache of what was downloaded or decoded."""

from __future__ import annotations

import os
from pathlib import Path

from s4gen.errors import UserError


def data_folder() -> Path | None:
    """The folder that the environment variable `S4GEN_DATA` names; None where it is unset or empty.

    Raises:
        UserError: it names no folder.
    """
    value = os.environ.get("S4GEN_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"S4GEN_DATA is {value!r}, which is not a folder: set it to one that holds mnist/ and cifar10/, "
            "or unset it to download them"
        )
    return folder


def user_cache() -> Path:
    """`s4gen` in the user's cache folder: `$XDG_CACHE_HOME`, else `~/.cache`. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s4gen"
