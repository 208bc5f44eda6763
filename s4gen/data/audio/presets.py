"""The data sets of the SaShiMi paper, as published on the Hugging Face hub, with their formats and splits.

Goel, Gu, Donahue, Re, "It's Raw! Audio Generation with State-Space Models", 2022. Each is a zip archive of wav files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s4gen.data.audio.clips import Source
from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.sources import Archive, Folder, Tree, from_tree
from s4gen.data.store import data_folder
from s4gen.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A data set with a name."""

    form: AudioFormat
    """Rate and quantisation that published numbers are for."""
    crop: int | None
    """Samples of a training sequence; None: whole clips."""
    hub: str | None = None
    """Where it is on the hub: REPOSITORY/FILE."""
    classes: tuple[str, ...] = ()
    """The folders that count, in the order of their labels; empty: recordings have no labels, or none by folder."""


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PRESETS = {
    # Spoken digits at 8 kHz, most of them shorter than a second.
    "fsdd": Preset(AudioFormat(8_000), None),
    "fsdd-mini": Preset(AudioFormat(8_000), None),
    # One spoken digit of at most a second; validation_list.txt and testing_list.txt say what is in which split.
    "sc09": Preset(AudioFormat(16_000, normalise="minmax"), 16_000, "krandiash/sc09/sc09.zip", _DIGITS),
    # Four hours of piano in 241 pieces of a minute: 212, 14 and 15 of them, in order; trained on 8.192 s at a time.
    "youtubemix": Preset(AudioFormat(16_000, normalise="minmax"), 131_072, "krandiash/youtubemix/youtubemix.zip"),
    # Piano sonatas in 4,328 pieces of 8 s: 3,808, 260 and 260 of them, in order.
    "beethoven": Preset(
        AudioFormat(16_000, "linear", normalise="minmax"), 128_000, "krandiash/beethoven/beethoven.zip"
    ),
}


def from_hub(name: str, split: str) -> Source:
    """One split of sc09, youtubemix or beethoven: from S4GEN_DATA where that is set, else downloaded once.

    In S4GEN_DATA it is NAME.zip or the folder NAME.

    Raises:
        UserError: neither there nor to be had; the message says how to get it by hand.
    """
    preset = PRESETS[name]
    folder = data_folder()
    if folder is None:
        tree: Tree = Archive(_download(name))
        return from_tree(tree, split, name, "hub", preset.classes)
    if (folder / name).is_dir():
        tree = Folder(folder / name)
    elif (folder / f"{name}.zip").is_file():
        tree = Archive(folder / f"{name}.zip")
    else:
        raise UserError(f"S4GEN_DATA holds neither {name}.zip nor {name}/: {_by_hand(name)}; or unset it to download")
    return from_tree(tree, split, name, "S4GEN_DATA", preset.classes)


def _download(name: str) -> Path:
    """The archive in the cache of the Hugging Face hub, downloaded if it is not there."""
    from datasets import DownloadManager

    try:
        return Path(str(DownloadManager().download(f"hf://datasets/{PRESETS[name].hub}")))
    except Exception as error:  # whatever the network, the hub and its client may raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"no {name}: S4GEN_DATA is not set, and downloading from the Hugging Face hub failed ({reason}); "
            f"{_by_hand(name)} in a folder and set S4GEN_DATA to that folder"
        ) from error


def _by_hand(name: str) -> str:
    repository, _, file = str(PRESETS[name].hub).rpartition("/")
    return f"put {file} from https://huggingface.co/datasets/{repository} (log in and accept its terms if asked to)"
