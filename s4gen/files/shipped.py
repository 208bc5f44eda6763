"""Find the recipes, presets and checkpoints that come with s4gen.

In an installed wheel they are inside the package, in `s4gen/_shipped/KIND`; in a source checkout they are at the
repository's root, in `KIND`, beside the package.
"""

from __future__ import annotations

from pathlib import Path

from s4gen.errors import UserError
from s4gen.files.folders import user_path

KINDS = ("models", "train", "sampling", "checkpoints")


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped files of one of `KINDS`; it may not exist."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_shipped"
    return (installed if installed.is_dir() else package.parent) / kind


def shipped_names(kind: str) -> list[str]:
    """Return the names that `find` accepts for this kind, sorted; one in a folder is named with it: claims/etth1-24."""
    folder = shipped_folder(kind)
    if kind == "checkpoints":
        return sorted(path.parent.name for path in folder.glob("*/config.json"))
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml"))


def find(kind: str, name_or_path: str | Path) -> Path:
    """Return the path itself if it exists, else the shipped file or checkpoint of that name.

    A shipped name may be written with its folder (`train/mnist-small.toml` and `mnist-small` are the same recipe), so
    that the commands in the documentation work from any folder.

    Raises:
        UserError: there is neither such a path nor such a name; the message lists the names.
    """
    path = user_path(name_or_path)
    if path.is_dir() if kind == "checkpoints" else path.is_file():
        return path
    names = shipped_names(kind)
    name = path.as_posix().removesuffix(".toml").removeprefix(f"{kind}/")
    if name in names:
        return shipped_folder(kind) / (name if kind == "checkpoints" else f"{name}.toml")
    noun = {
        "models": "model preset",
        "train": "recipe",
        "sampling": "sampling recipe",
        "checkpoints": "checkpoint",
    }[kind]
    known = f"the shipped ones are: {', '.join(names)}" if names else "no shipped ones were found"
    if path.exists():
        wanted = "a folder" if kind == "checkpoints" else "a TOML file"
        raise UserError(f"{name_or_path} is not a {noun}: expected {wanted}; {known}")
    raise UserError(f"no {noun} at {name_or_path}; {known}")
