"""List the data sets of recordings that have a name: where each of them is, its format, and its splits.

fsdd    the Free Spoken Digit Dataset (Zohar Jackson and others, CC BY-SA 4.0): ten digits, six speakers, 8 kHz; 2,700
        recordings to train with, 300 to test with. They are called DIGIT_SPEAKER_INDEX; of the 50 of each speaker and
        digit, index 0 to 4 are the official test split. `fsdd-mini`, inside the package, is 80 of them
        (mini/README.md).
others  those of the SaShiMi paper, as published on the Hugging Face hub, each as a zip archive of wav files (Goel, Gu,
        Donahue, Re, "It's Raw! Audio Generation with State-Space Models", 2022).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.reading import Recording
from s4gen.data.audio.sources import Source, from_parquet, from_tree, is_sound, listed
from s4gen.data.store import data_folder
from s4gen.data.tree import Archive, Folder, Tree, natural
from s4gen.errors import UserError
from s4gen.showing.words import plural

FSDD_SIZES = {"train": 2700, "test": 300}
_FSDD_DIGITS = tuple("0123456789")
MINI = Path(__file__).parent / "mini" / "fsdd.zip"
_FSDD_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)")
_WHERE_FSDD_IS = (
    "fsdd/train-*.parquet and fsdd/test-*.parquet, or the wav files of the original repository in fsdd/recordings"
)


@dataclass(frozen=True)
class Published:
    """A data set of recordings with a name."""

    open: Callable[[str], Source]
    """The recordings of one of its splits."""
    format: AudioFormat
    """Rate and quantisation that published numbers are for."""
    crop: int | None
    """Samples of a training sequence; None for whole clips."""
    hub: str | None = None
    """Where it is on the hub: REPOSITORY/FILE."""
    classes: tuple[str, ...] = ()
    """The folders that count, in the order of their labels; empty if recordings have no labels, or none by folder."""


def fsdd(split: str) -> Source:
    """Return a split of the whole set, from the folder that S4GEN_DATA names, in the order of the recordings' names.

    Raises:
        UserError: it is not there, or not whole; no such split.
    """
    _check_split("fsdd", split)
    folder = data_folder()
    if folder is None:
        raise UserError(
            f"no fsdd: S4GEN_DATA is not set; set it to a folder that holds {_WHERE_FSDD_IS} "
            "(git clone https://github.com/Jakobovski/free-spoken-digit-dataset fsdd), or use fsdd-mini"
        )
    root = folder / "fsdd"
    if any(root.glob("*.parquet")):
        source = from_parquet(root, split, "fsdd", "S4GEN_DATA")
    elif any(root.glob("recordings/*.wav")):
        source = _named_by_digit(Folder(root / "recordings"), split, "fsdd", "S4GEN_DATA")
    else:
        raise UserError(f"{root} holds no recordings: S4GEN_DATA must hold {_WHERE_FSDD_IS}")
    return replace(source, recordings=partial(_whole, source))


def fsdd_mini(split: str) -> Source:
    """Return a split of the recordings inside the package.

    Raises:
        UserError: no such split.
    """
    _check_split("fsdd-mini", split)
    return _named_by_digit(Archive(MINI), split, "fsdd-mini", "s4gen")


def _whole(source: Source) -> Iterator[Recording]:
    """Yield the recordings in the order of their names, so that both layouts of the set are the same set."""
    found = sorted(source.recordings(), key=lambda recording: natural(PurePosixPath(recording.name).stem))
    if len(found) != FSDD_SIZES[source.split]:
        raise UserError(
            f"the {source.split} split of fsdd in {source.root} has {plural(len(found), 'recording')}, "
            f"expected {FSDD_SIZES[source.split]}: a file is missing or one too many"
        )
    return iter(found)


def _named_by_digit(tree: Tree, split: str, name: str, origin: str) -> Source:
    labels = {}
    for file in sorted(filter(is_sound, tree.names()), key=natural):
        match = _FSDD_NAME.fullmatch(PurePosixPath(file).stem)
        if match and (int(match[3]) < 5) == (split == "test"):
            labels[file] = int(match[1])
    return listed(tree, list(labels), labels, split=split, name=name, origin=origin, classes=_FSDD_DIGITS)


def _check_split(name: str, split: str) -> None:
    if split not in FSDD_SIZES:
        raise UserError(f"{name} has no {split} split: expected {' or '.join(FSDD_SIZES)}")


def from_hub(name: str, split: str) -> Source:
    """Return a split of sc09, youtubemix or beethoven: from S4GEN_DATA where that is set, else downloaded once.

    In S4GEN_DATA it is NAME.zip or the folder NAME.

    Raises:
        UserError: it is neither there nor to be had; the message says how to get it by hand.
    """
    found = PUBLISHED[name]
    folder = data_folder()
    if folder is None:
        tree: Tree = Archive(_download(name))
        return from_tree(tree, split, name, "hub", found.classes)
    if (folder / name).is_dir():
        tree = Folder(folder / name)
    elif (folder / f"{name}.zip").is_file():
        tree = Archive(folder / f"{name}.zip")
    else:
        raise UserError(f"S4GEN_DATA holds neither {name}.zip nor {name}/: {_by_hand(name)}; or unset it to download")
    return from_tree(tree, split, name, "S4GEN_DATA", found.classes)


def _download(name: str) -> Path:
    """Return the archive in the cache of the Hugging Face hub; it is downloaded if it is not there."""
    from datasets import DownloadManager

    try:
        return Path(str(DownloadManager().download(f"hf://datasets/{PUBLISHED[name].hub}")))
    except Exception as error:  # whatever the network, the hub and its client may raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"no {name}: S4GEN_DATA is not set, and downloading from the Hugging Face hub failed ({reason}); "
            f"{_by_hand(name)} in a folder and set S4GEN_DATA to that folder"
        ) from error


def _by_hand(name: str) -> str:
    repository, _, file = str(PUBLISHED[name].hub).rpartition("/")
    return f"put {file} from https://huggingface.co/datasets/{repository} (log in and accept its terms if asked to)"


_SPOKEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MINMAX = AudioFormat(16_000, normalise="minmax")

PUBLISHED: dict[str, Published] = {
    # Spoken digits at 8 kHz, most of them shorter than a second.
    "fsdd": Published(fsdd, AudioFormat(8_000), None),
    "fsdd-mini": Published(fsdd_mini, AudioFormat(8_000), None),
    # One spoken digit of at most a second; validation_list.txt and testing_list.txt say what is in which split.
    "sc09": Published(partial(from_hub, "sc09"), _MINMAX, 16_000, "krandiash/sc09/sc09.zip", _SPOKEN),
    # Four hours of piano in 241 pieces of a minute: 212, 14 and 15 of them, in order; trained on 8.192 s at a time.
    "youtubemix": Published(partial(from_hub, "youtubemix"), _MINMAX, 131_072, "krandiash/youtubemix/youtubemix.zip"),
    # Piano sonatas in 4,328 pieces of 8 s: 3,808, 260 and 260 of them, in order.
    "beethoven": Published(
        partial(from_hub, "beethoven"), replace(_MINMAX, law="linear"), 128_000, "krandiash/beethoven/beethoven.zip"
    ),
}
"""All of `names.AUDIO_SETS`."""
