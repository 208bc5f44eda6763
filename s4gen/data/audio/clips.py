"""A set of clips as codes, in memory or, where it is large, in a memory-mapped file of the user's cache."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.atomic import read_consistent, write_atomic
from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.quantise import Codes
from s4gen.data.audio.reading import Heard, Recording, UnusableError, encode_blocks, read_origin
from s4gen.data.audio.report import Report
from s4gen.errors import UserError
from s4gen.folders import cache_folder
from s4gen.progress import progress_bar

LARGE = 1 << 28
"""Bytes of recordings from which on their codes go to a file in the cache instead of memory."""
_VERSION = 2


@dataclass(frozen=True)
class Source:
    """Where the recordings of one split come from."""

    name: str
    """The data set, or the folder."""
    split: str
    """train, validation or test."""
    origin: str
    """S4GEN_DATA, the hub, s4gen itself, or the folder again."""
    recordings: Callable[[], Iterable[Recording]]
    """All of them, in their order; iterated once."""
    root: Path
    """The folder or archive that they are in."""
    files: tuple[Path, ...]
    """The files that hold them: when one changes, what was kept of them is out of date."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty where recordings have none."""
    notes: tuple[str, ...] = ()
    """Each line tells the user something about how the set was understood."""


@dataclass(frozen=True, eq=False)
class AudioSet:
    """Clips of one format with their lengths and, maybe, labels."""

    codes: Codes
    """(total,) all clips one after another; maybe memory-mapped, so treat as read-only."""
    starts: NDArray[np.int64]
    """(n,) where each clip begins in `codes`."""
    lengths: NDArray[np.int64]
    """(n,) samples in each clip, at least 1."""
    labels: NDArray[np.int64] | None
    """(n,) class of each clip, or None."""
    names: tuple[str, ...]
    """(n,) what each recording is called."""
    classes: tuple[str, ...]
    """Name of each class."""
    form: AudioFormat
    """What every clip was turned into."""
    name: str
    """The data set: fsdd, sc09, ..., or the path of a folder."""
    split: str
    """train, validation or test."""
    origin: str
    """Where it was read from."""
    report: Report
    """What became of the recordings; its `lines` are for the user."""

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, index: int) -> Codes:
        """The codes (lengths[index],) of one clip."""
        start = self.starts[index]
        return self.codes[start : start + self.lengths[index]]

    def subset(self, indices: NDArray[np.int64]) -> AudioSet:
        """Some of the clips, in the given order; the codes are shared."""
        return replace(
            self,
            starts=self.starts[indices],
            lengths=self.lengths[indices],
            labels=None if self.labels is None else self.labels[indices],
            names=tuple(self.names[index] for index in indices),
        )


def hold_out(audio: AudioSet, n: int) -> tuple[AudioSet, AudioSet]:
    """All but n clips, and n clips drawn at random, always the same: to train on, and to validate with.

    Raises:
        UserError: nothing would be left to train on.
    """
    if not 0 <= n < len(audio):
        raise UserError(
            f"data.validation = {n}: expected 0 to {len(audio) - 1}, so that some of the {len(audio)} "
            f"training clips of {audio.name} are left to train on"
        )
    order = np.random.default_rng(0).permutation(len(audio))
    return audio.subset(np.sort(order[n:])), replace(audio.subset(np.sort(order[:n])), split="validation")


def build(
    source: Source,
    form: AudioFormat,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    progress: bool = False,
) -> AudioSet:
    """Every usable recording of `source` within the limits of length, as codes.

    Recordings that cannot be used are skipped, with name and reason in the report.

    Raises:
        UserError: no recording is left; the cache cannot be written.
    """
    limits = (round(min_seconds * form.rate), max_seconds * form.rate)
    if sum(_size_and_time(path)[0] for path in source.files) < LARGE:
        sink = io.BytesIO()
        index = _encode_all(source, form, limits, sink, progress)
        codes = np.frombuffer(sink.getbuffer(), form.quantiser.dtype)
    else:
        index, codes = _cached(source, form, limits, progress)
    lengths = np.array(index["lengths"], np.int64)
    return AudioSet(
        codes=codes,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        labels=None if index["labels"] is None else np.array(index["labels"], np.int64),
        names=tuple(index["names"]),
        classes=source.classes,
        form=form,
        name=source.name,
        split=source.split,
        origin=source.origin,
        report=Report(
            **index["report"] | {"skipped": tuple(map(tuple, index["report"]["skipped"])), "notes": source.notes}
        ),
    )


def _cached(
    source: Source, form: AudioFormat, limits: tuple[float, float], progress: bool
) -> tuple[dict[str, Any], Codes]:
    """Index and memory-mapped codes, prepared once for these very files, format and limits."""
    settings = [_VERSION, str(source.root), source.split, source.classes, asdict(form), limits]
    folder = cache_folder() / "audio" / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    key = [[str(path), *_size_and_time(path)] for path in source.files]

    def read(directory: Path) -> tuple[dict[str, Any], Codes]:
        index = json.loads((directory / "index.json").read_text())
        if index["key"] != key:
            raise ValueError("made of other files")
        return index, np.memmap(directory / "codes", form.quantiser.dtype, "r", shape=(sum(index["lengths"]),))

    def fill(directory: Path) -> None:
        with (directory / "codes").open("w+b") as file:
            index = _encode_all(source, form, limits, file, progress)
        (directory / "index.json").write_text(json.dumps({"key": key, **index}))

    try:
        return read_consistent(folder, read)
    except (OSError, ValueError, KeyError):
        write_atomic(folder, fill)
        return read_consistent(folder, read)


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and nanoseconds; zeros for a file that is not there or not for us, which is skipped by name later."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _encode_all(
    source: Source, form: AudioFormat, limits: tuple[float, float], sink: BinaryIO, progress: bool
) -> dict[str, Any]:
    """Write all codes to `sink`; return lengths, labels (or None), names and report, all fit for JSON."""
    lengths: list[int] = []
    labels: list[int | None] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    counts: dict[str, Any] = dict.fromkeys(
        ("found", "too_short", "too_long", "resampled", "mixed", "clipped", "broke_off"), 0
    )
    with progress_bar(0, "recordings", progress, desc=f"reading {source.name}") as bar:
        for recording in source.recordings():
            bar.update(1)
            counts["found"] += 1
            begin, heard = sink.tell(), Heard()
            try:
                origin = read_origin(recording)
                length, clipped = _encode_one(recording, form, limits[1], sink, heard)
            except UnusableError as error:
                skipped.append((recording.name, str(error)))
                _cut(sink, begin)
                continue
            if not limits[0] <= length <= limits[1]:
                counts["too_short" if length < limits[0] else "too_long"] += 1
                _cut(sink, begin)
                continue
            counts["resampled"] += origin.rate != form.rate
            counts["mixed"] += origin.channels > 1
            counts["clipped"] += clipped
            counts["broke_off"] += heard.broke_off
            lengths.append(length)
            labels.append(recording.label)
            names.append(recording.name)
    report = Report(skipped=tuple(skipped), **counts)
    if not lengths:
        raise UserError(_nothing_left(source, report))
    labelled = bool(source.classes) and None not in labels
    return {"lengths": lengths, "labels": labels if labelled else None, "names": names, "report": asdict(report)}


def _encode_one(
    recording: Recording, form: AudioFormat, longest: float, sink: BinaryIO, heard: Heard
) -> tuple[int, bool]:
    """Write one recording, or as much of it as shows that it is too long; its length, and whether it was clipped."""
    length, clipped = 0, False
    for codes, beyond in encode_blocks(recording, form, heard):
        sink.write(codes.tobytes())
        length += len(codes)
        clipped |= beyond
        if length > longest:
            break
    return length, clipped


def _cut(sink: BinaryIO, end: int) -> None:
    sink.seek(end)
    sink.truncate()


def _nothing_left(source: Source, report: Report) -> str:
    if not report.found:
        return f"no recordings in the {source.split} split of {source.name}: expected wav, flac or ogg files, or others"
    why = "; ".join(report.lines())
    return f"no recording of the {source.split} split of {source.name} can be used: {why}"
