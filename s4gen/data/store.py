"""Find the user's own copies of published data sets, which are in the folder that `S4GEN_DATA` names."""

from __future__ import annotations

import os
from pathlib import Path

from s4gen.errors import UserError
from s4gen.files.folders import user_path


def data_folder() -> Path | None:
    """Return the folder that the environment variable `S4GEN_DATA` names; None if it is unset or empty.

    Raises:
        UserError: the variable names something that is no folder.
    """
    value = os.environ.get("S4GEN_DATA")
    if not value:
        return None
    folder = user_path(value, "S4GEN_DATA")
    if not folder.is_dir():
        raise UserError(
            f"S4GEN_DATA is {value!r}, which is not a folder: set it to one that holds data sets, such as mnist/, "
            "cifar10/, wikitext/ or fsdd/, or unset it to download what can be downloaded"
        )
    return folder
