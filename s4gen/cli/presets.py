"""Tell whether a name means a checkpoint or a preset, where a verb takes both."""

from __future__ import annotations

from pathlib import Path

from s4gen.errors import UserError
from s4gen.files.atomic import current
from s4gen.files.shipped import shipped_names


def is_preset(name_or_path: str) -> bool:
    """Tell whether this is a model preset rather than a checkpoint; a checkpoint wins where both have the name.

    Raises:
        UserError: it is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path.suffix == ".toml"
    if current(path) is not None or path.name in shipped_names("checkpoints"):
        return False
    if path.name.removesuffix(".toml") in shipped_names("models"):
        return True
    checkpoints, presets = (", ".join(shipped_names(kind)) or "none" for kind in ("checkpoints", "models"))
    raise UserError(
        f"no checkpoint or model preset at {name_or_path}; the shipped ones are: checkpoints {checkpoints}; "
        f"presets {presets}"
    )
