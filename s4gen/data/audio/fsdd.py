"""The Free Spoken Digit Dataset: ten digits, six speakers, 8 kHz; 2,700 recordings to train with, 300 to test with.

Zohar Jackson and others, CC BY-SA 4.0. Recordings are called DIGIT_SPEAKER_INDEX; of the 50 of each speaker and digit,
index 0 to 4 are the official test split. `fsdd-mini`, inside the package, is 80 of them (mini/README.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from s4gen.data.audio.clips import Source
from s4gen.data.audio.parquet import from_parquet
from s4gen.data.audio.reading import Recording
from s4gen.data.audio.sources import Archive, Folder, Tree, is_sound, listed
from s4gen.data.store import data_folder
from s4gen.data.tree import natural
from s4gen.errors import UserError

SIZES = {"train": 2700, "test": 300}
DIGITS = tuple("0123456789")
MINI = Path(__file__).parent / "mini" / "fsdd.zip"
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)")
_LAYOUTS = (
    "fsdd/train-*.parquet and fsdd/test-*.parquet, or the wav files of the original repository in fsdd/recordings"
)


def full(split: str) -> Source:
    """The whole set, from the folder that S4GEN_DATA names, in the order of the recordings' names.

    Raises:
        UserError: it is not there, or not whole; no such split.
    """
    _check_split("fsdd", split)
    folder = data_folder()
    if folder is None:
        raise UserError(
            f"no fsdd: S4GEN_DATA is not set; set it to a folder that holds {_LAYOUTS} "
            "(git clone https://github.com/Jakobovski/free-spoken-digit-dataset fsdd), or use fsdd-mini"
        )
    root = folder / "fsdd"
    if any(root.glob("*.parquet")):
        source = from_parquet(root, split, "fsdd", "S4GEN_DATA")
    elif any(root.glob("recordings/*.wav")):
        source = _by_name(Folder(root / "recordings"), split, "fsdd", "S4GEN_DATA")
    else:
        raise UserError(f"{root} holds no recordings: S4GEN_DATA must hold {_LAYOUTS}")
    return replace(source, recordings=partial(_all, source))


def mini(split: str) -> Source:
    """The recordings inside the package.

    Raises:
        UserError: no such split.
    """
    _check_split("fsdd-mini", split)
    return _by_name(Archive(MINI), split, "fsdd-mini", "s4gen")


def _all(source: Source) -> Iterator[Recording]:
    """The recordings, sorted, so that both layouts of the set are the same set."""
    found = sorted(source.recordings(), key=lambda recording: natural(PurePosixPath(recording.name).stem))
    if len(found) != SIZES[source.split]:
        raise UserError(
            f"the {source.split} split of fsdd in {source.root} has {len(found)} recordings, "
            f"expected {SIZES[source.split]}: a file is missing or one too many"
        )
    return iter(found)


def _by_name(tree: Tree, split: str, name: str, origin: str) -> Source:
    labels = {}
    for file in sorted(filter(is_sound, tree.names()), key=natural):
        match = _NAME.fullmatch(PurePosixPath(file).stem)
        if match and (int(match[3]) < 5) == (split == "test"):
            labels[file] = int(match[1])
    return listed(tree, list(labels), labels, split=split, name=name, origin=origin, classes=DIGITS)


def _check_split(name: str, split: str) -> None:
    if split not in SIZES:
        raise UserError(f"{name} has no {split} split: expected {' or '.join(SIZES)}")
