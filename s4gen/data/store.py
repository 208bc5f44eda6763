"""Where data sets are: the user's copies (`S4GEN_DATA`)."""

from __future__ import annotations

import os
from pathlib import Path

from s4gen.errors import UserError
from s4gen.files.folders import user_path


def data_folder() -> Path | None:
    """The folder that the environment variable `S4GEN_DATA` names; None where it is unset or empty.

    Raises:
        UserError: it names no folder.
    """
    value = os.environ.get("S4GEN_DATA")
    if not value:
        return None
    folder = user_path(value, "S4GEN_DATA")
    if not folder.is_dir():
        raise UserError(
            f"S4GEN_DATA is {value!r}, which is not a folder: set it to one that holds mnist/ and cifar10/, "
            "or unset it to download them"
        )
    return folder
