"""Turn somebody's own images (a folder, Parquet files, a data set of the hub) into one array in the cache."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config.names import SPLITS
from s4gen.data.pictures import ImageFormat, Seen, UnusableError
from s4gen.data.sealed import OutdatedError, check_digest, digest, kept_or_made, sealed, unsealed
from s4gen.errors import UserError, printable, shortened
from s4gen.files.expected import anything, items, table, text, whole
from s4gen.files.folders import cache_folder
from s4gen.showing.progress import progress_bar

_VERSION = 2
_NAMED = 5
"""How many skipped pictures are named in messages; the others are counted."""
HELD_OUT = 0.05
"""The share of a set without splits that is held out for validation, and again for the test."""
NO_SPLIT, NO_LABEL = -1, -1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One picture, not decoded yet."""

    name: str
    """Its name in messages: the path below the folder that was given."""
    read: Callable[[ImageFormat], tuple[Pixels, Seen]]
    """A function that decodes it: pixels, and what was done to them."""
    label: int = NO_LABEL
    """The number of its class, or NO_LABEL."""
    split: int = NO_SPLIT
    """The number of its split in SPLITS, or NO_SPLIT if the set does not say."""


@dataclass(frozen=True)
class Gallery:
    """A source of pictures."""

    name: str
    """The folder, or the name on the hub."""
    key: Any
    """A value for JSON that changes whenever any of the pictures may have changed."""
    count: int
    """Number of pictures, for the progress bar; 0 if it is not known."""
    pictures: Callable[[], Iterator[Picture]]
    """A function that yields all pictures, in their order."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty if the pictures have none."""
    notes: tuple[str, ...] = ()
    """Each line tells the user something about how the set was understood."""


@dataclass
class _Index:
    """The facts that are kept beside the pixels."""

    shape: list[int] = field(default_factory=list)
    """The shape of all images together: n, rows, pixels of a row, channels."""
    found: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(name, why) of pictures that cannot be used."""
    labels: list[int] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    enlarged: int = 0
    transparent: int = 0
    animated: int = 0

    def lines(self) -> list[str]:
        """Return what somebody should know, one line for each kind; empty if all pictures went in as they are."""
        lines = []
        if self.skipped:
            named = [f"{shortened(printable(name), 120)} {why}" for name, why in self.skipped[:_NAMED]]
            more = len(self.skipped) - len(named)
            reasons = "; ".join([*named, f"and {more} more"] if more else named)
            lines.append(f"skipped {len(self.skipped)} of {self.found} images: {reasons}")
        used = self.found - len(self.skipped)
        for count, what in (
            (self.enlarged, "are smaller than asked for and were enlarged"),
            (self.transparent, "are transparent in places and were laid on white"),
            (self.animated, "are files of several images, of which the first one counts"),
        ):
            if count:
                lines.append(f"{count} of {used} images {what}")
        return lines


_NUMBERS = {name: whole() for name in ("found", "enlarged", "transparent", "animated")}
_INDEX = table(
    {
        **{"key": anything, "pixels_sha256": text(64), "shape": items(whole(1), 4, 4), **_NUMBERS},
        **{"skipped": items(items(text(), 2, 2)), "labels": items(whole(NO_LABEL))},
        "splits": items(whole(NO_SPLIT, len(SPLITS) - 1)),
    }
)
"""The index of a gallery that is kept in the cache."""


@dataclass(frozen=True)
class Decoded:
    """All images of a gallery."""

    images: Pixels
    """(n, h, w, c), read from disk as they are needed; treat as read-only."""
    labels: NDArray[np.int64]
    """(n,) the class of each image, or NO_LABEL."""
    splits: NDArray[np.int64]
    """(n,) the number in SPLITS of the split of each image."""
    lines: list[str]
    """Lines for the user that say what became of the pictures."""


def decode(gallery: Gallery, format: ImageFormat, progress: bool = False) -> Decoded:
    """Decode all images of a gallery in this format, once, and keep them in the cache.

    Pictures that cannot be used are skipped, and named in `lines`.

    Raises:
        UserError: no picture is left; they differ in size and the format has none; the cache cannot be written.
    """
    settings = json.dumps([_VERSION, gallery.name, asdict(format)])
    folder = cache_folder() / "images" / hashlib.sha256(settings.encode()).hexdigest()[:16]

    def read(directory: Path) -> tuple[_Index, Pixels]:
        kept = unsealed(directory / "index.json", _INDEX)
        if kept.pop("key") != gallery.key:
            raise OutdatedError
        check_digest(directory / "pixels", math.prod(kept["shape"]), kept.pop("pixels_sha256"))
        index = _Index(**kept)
        return index, np.memmap(directory / "pixels", np.uint8, "r", shape=tuple(index.shape))

    def fill(directory: Path) -> None:
        index = _write_pixels(gallery, format, directory / "pixels", progress)
        facts = {"key": gallery.key, "pixels_sha256": digest(directory / "pixels").hexdigest(), **asdict(index)}
        (directory / "index.json").write_bytes(sealed(facts))

    index, images = kept_or_made(folder, read, fill, f"the images of {gallery.name}")
    splits = assigned(np.array(index.splits, np.int64))
    return Decoded(images, np.array(index.labels, np.int64), splits, [*gallery.notes, *index.lines()])


def _write_pixels(gallery: Gallery, format: ImageFormat, path: Path, progress: bool) -> _Index:
    """Write all images to a file, one after another, and say what they are."""
    index, first, coloured = _Index(), "", False
    with path.open("wb") as file, progress_bar(gallery.count, "img", progress, f"reading {gallery.name}") as bar:
        for picture in gallery.pictures():
            bar.update(1)
            index.found += 1
            try:
                pixels, seen = picture.read(format)
            except UnusableError as error:
                index.skipped.append((picture.name, str(error)))
                continue
            if not index.labels:
                first, index.shape = picture.name, [0, *pixels.shape]
            if list(pixels.shape) != index.shape[1:]:
                raise UserError(_sizes_differ(gallery.name, (first, index.shape[1:]), (picture.name, pixels.shape)))
            coloured = coloured or bool((pixels != pixels[..., :1]).any())
            file.write(pixels.tobytes())
            index.labels.append(picture.label)
            index.splits.append(picture.split)
            index.enlarged += seen.enlarged
            index.transparent += seen.transparent
            index.animated += seen.animated
    if not index.labels:
        raise UserError(f"no image of {gallery.name} can be used: {'; '.join(index.lines()) or 'there are none'}")
    index.shape[0] = len(index.labels)
    if format.channels == 0 and not coloured:
        _keep_one_channel(path, index.shape)
        index.shape[-1] = 1
    return index


def _keep_one_channel(path: Path, shape: list[int]) -> None:
    """Rewrite a file of grey images with three equal channels as one channel, in place.

    This is safe because whatever is overwritten has been read before."""
    grey = np.memmap(path, np.uint8, "r+", shape=(math.prod(shape[:-1]), shape[-1]))
    flat = grey.reshape(-1)
    step = 1 << 20
    for begin in range(0, len(grey), step):
        part = grey[begin : begin + step, 0].copy()
        flat[begin : begin + len(part)] = part
    grey.flush()
    size = len(grey)
    del grey, flat
    with path.open("r+b") as file:
        file.truncate(size)


def _sizes_differ(name: str, one: tuple[str, Any], other: tuple[str, Any]) -> str:
    (a, (height, width, _)), (b, (tall, wide, _)) = one, other
    return (
        f"the images of {name} differ in size: {a} has {width} x {height} pixels, {b} {wide} x {tall}; "
        f"set data.size, for example data.size = {min(height, width, tall, wide, 32)}"
    )


def assigned(splits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the split of every image: what the set says, and by chance, always the same, what it leaves open.

    Of a set without splits, a share each is held out for validation and test, at least one image of three. Where a set
    has no validation split, a share of what is to train on becomes one.
    """
    train, validation, test = range(len(SPLITS))
    found = splits.copy()
    open_ = np.flatnonzero(found == NO_SPLIT)
    found[open_] = train
    parts = (validation, test) if len(open_) else (validation,) if not (found == validation).any() else ()
    candidates = open_ if len(open_) else np.flatnonzero(found == train)
    order = np.random.default_rng(0).permutation(candidates)
    share = max(1, round(HELD_OUT * len(order))) if len(order) > len(parts) else 0
    for number, part in enumerate(parts):
        found[order[number * share : (number + 1) * share]] = part
    return found
