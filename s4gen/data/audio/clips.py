"""Keep a set of clips as codes, in memory or, if it is large, in a memory-mapped file of the user's cache."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.data.audio.format import AudioFormat, Codes
from s4gen.data.audio.reading import Heard, Recording, UnusableError, encode_blocks, read_origin
from s4gen.data.audio.sources import Source
from s4gen.data.sealed import OutdatedError, check_digest, digest, kept_or_made, sealed, unsealed
from s4gen.errors import UserError, printable, shortened
from s4gen.files.expected import anything, items, optional, table, text, whole
from s4gen.files.folders import cache_folder
from s4gen.showing.progress import progress_bar

LARGE = 1 << 28
"""Bytes of recordings from which on their codes go to a file in the cache instead of memory."""
_VERSION = 3
_NAMED = 5
"""Skipped recordings that are named; the others are counted."""


_COUNTS = ("found", "too_short", "too_long", "resampled", "mixed", "clipped", "broke_off")
_REPORT = {"skipped": items(items(text(), 2, 2)), "notes": items(text()), **dict.fromkeys(_COUNTS, whole())}
_INDEX = table(
    {
        **{"key": anything, "codes_sha256": text(64), "lengths": items(whole(1), 1)},
        **{"labels": optional(items(whole())), "names": items(text()), "report": table(_REPORT)},
    }
)
"""The index of a set that is kept in the cache."""


@dataclass(frozen=True)
class Findings:
    """The counts of recordings of a set that were read, changed and left out; `lines` say so to the user."""

    found: int = 0
    """Recordings that were looked at."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(name, why) of those that cannot be used."""
    too_short: int = 0
    """Recordings that were left out because they are shorter than asked for."""
    too_long: int = 0
    """Recordings that were left out because they are longer than asked for."""
    resampled: int = 0
    """Recordings that were used after conversion from another sampling rate."""
    mixed: int = 0
    """Recordings that were used after their channels were mixed to one."""
    clipped: int = 0
    """Recordings that were used although they went beyond full scale, where they were clipped."""
    broke_off: int = 0
    """Recordings that were used although they end before the end that their headers name."""
    notes: tuple[str, ...] = ()
    """Lines that say how the set was understood."""

    @property
    def used(self) -> int:
        """Recordings in the set."""
        return self.found - len(self.skipped) - self.too_short - self.too_long

    def lines(self) -> list[str]:
        """Return what somebody should know, one line for each kind; empty if all went in as they are."""
        lines = list(self.notes)
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} of {self.found} recordings: {self.reasons()}")
        for count, what in ((self.too_short, "shorter"), (self.too_long, "longer")):
            if count:
                lines.append(f"left out {count} of {self.found} recordings: {what} than asked for")
        for count, what in (
            (self.resampled, "had another sampling rate and were resampled"),
            (self.mixed, "had several channels and were mixed to mono"),
            (self.clipped, "went beyond full scale and were clipped"),
            (self.broke_off, "are cut off before the end that their headers name, and were read up to there"),
        ):
            if count:
                lines.append(f"{count} of {self.used} recordings {what}")
        return lines

    def reasons(self) -> str:
        """Name the first skipped recordings."""
        named = [f"{shortened(printable(name), 120)} {why}" for name, why in self.skipped[:_NAMED]]
        more = len(self.skipped) - len(named)
        return "; ".join([*named, f"and {more} more"] if more else named)


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
    """(n,) the name of each recording."""
    classes: tuple[str, ...]
    """Name of each class."""
    format: AudioFormat
    """The format that every clip was turned into."""
    name: str
    """The data set: fsdd, sc09, ..., or the path of a folder."""
    split: str
    """train, validation or test."""
    origin: str
    """The place that it was read from."""
    findings: Findings
    """The report of how many recordings were taken, cut and left out; its `lines` are for the user."""

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, index: int) -> Codes:
        """Return the codes (lengths[index],) of one clip."""
        start = self.starts[index]
        return self.codes[start : start + self.lengths[index]]

    def subset(self, indices: NDArray[np.int64]) -> AudioSet:
        """Return some of the clips, in the given order; the codes are shared."""
        return replace(
            self,
            starts=self.starts[indices],
            lengths=self.lengths[indices],
            labels=None if self.labels is None else self.labels[indices],
            names=tuple(self.names[index] for index in indices),
        )


def build(
    source: Source,
    format: AudioFormat,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    progress: bool = False,
) -> AudioSet:
    """Encode every usable recording of `source` within the limits of length, as codes.

    Recordings that cannot be used are skipped, with name and reason in the report.

    Raises:
        UserError: no recording is left; the cache cannot be written.
    """
    limits = (round(min_seconds * format.rate), max_seconds * format.rate)
    index, codes = _in_memory(source, format, limits, progress) or _cached(source, format, limits, progress)
    lengths = np.array(index["lengths"], np.int64)
    return AudioSet(
        codes=codes,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        labels=None if index["labels"] is None else np.array(index["labels"], np.int64),
        names=tuple(index["names"]),
        classes=source.classes,
        format=format,
        name=source.name,
        split=source.split,
        origin=source.origin,
        findings=Findings(
            **index["report"] | {"skipped": tuple(map(tuple, index["report"]["skipped"])), "notes": source.notes}
        ),
    )


class _LargeError(Exception):
    """The codes of a set need more room than it should have in memory."""


class _Memory(io.BytesIO):
    """Bytes in memory, of which there are `LARGE` at most: silence in a FLAC file needs 5,000 times its room."""

    def write(self, content: Any) -> int:
        if self.tell() + len(content) > LARGE:
            raise _LargeError
        return super().write(content)


def _in_memory(
    source: Source, format: AudioFormat, limits: tuple[float, float], progress: bool
) -> tuple[dict[str, Any], Codes] | None:
    """Return index and codes of a set that is small; None of one whose recordings or codes are large."""
    if sum(_size_and_time(path)[0] for path in source.files) >= LARGE:
        return None
    sink = _Memory()
    try:
        index = _encode_all(source, format, limits, sink, progress)
    except _LargeError:
        return None
    return index, np.frombuffer(sink.getbuffer(), format.quantiser.dtype)


def _cached(
    source: Source, format: AudioFormat, limits: tuple[float, float], progress: bool
) -> tuple[dict[str, Any], Codes]:
    """Return index and memory-mapped codes, which are prepared once for these very files, format and limits."""
    settings = [_VERSION, str(source.root), source.split, source.classes, asdict(format), limits]
    folder = cache_folder() / "audio" / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    key = [[str(path), *_size_and_time(path)] for path in source.files]

    def read(directory: Path) -> tuple[dict[str, Any], Codes]:
        index = unsealed(directory / "index.json", _INDEX)
        if index["key"] != key:
            raise OutdatedError
        dtype = format.quantiser.dtype
        check_digest(directory / "codes", sum(index["lengths"]) * dtype.itemsize, index["codes_sha256"])
        codes = np.memmap(directory / "codes", dtype, "r")
        return index, codes

    def fill(directory: Path) -> None:
        with (directory / "codes").open("w+b") as file:
            index = _encode_all(source, format, limits, file, progress)
        checksum = digest(directory / "codes").hexdigest()
        (directory / "index.json").write_bytes(sealed({"key": key, "codes_sha256": checksum, **index}))

    return kept_or_made(folder, read, fill, f"the codes of {source.name}")


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size and time of modification in nanoseconds; zeros for a file that cannot be read.

    Such a file is skipped by name when the set is read.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _encode_all(
    source: Source, format: AudioFormat, limits: tuple[float, float], sink: BinaryIO, progress: bool
) -> dict[str, Any]:
    """Write all codes to `sink`; return lengths, labels (or None), names and report, all fit for JSON."""
    lengths: list[int] = []
    labels: list[int | None] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    counts: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    with progress_bar(0, "recordings", progress, desc=f"reading {source.name}") as bar:
        for recording in source.recordings():
            bar.update(1)
            counts["found"] += 1
            begin, heard = sink.tell(), Heard()
            try:
                origin = read_origin(recording)
                length, clipped = _encode_one(recording, format, limits[1], sink, heard)
            except UnusableError as error:
                skipped.append((recording.name, str(error)))
                _cut(sink, begin)
                continue
            if not limits[0] <= length <= limits[1]:
                counts["too_short" if length < limits[0] else "too_long"] += 1
                _cut(sink, begin)
                continue
            counts["resampled"] += origin.rate != format.rate
            counts["mixed"] += origin.channels > 1
            counts["clipped"] += clipped
            counts["broke_off"] += heard.broke_off
            lengths.append(length)
            labels.append(recording.label)
            names.append(recording.name)
    findings = Findings(skipped=tuple(skipped), **counts)
    if not lengths:
        raise UserError(_nothing_left(source, findings))
    labelled = bool(source.classes) and None not in labels
    return {"lengths": lengths, "labels": labels if labelled else None, "names": names, "report": asdict(findings)}


def _encode_one(
    recording: Recording, format: AudioFormat, longest: float, sink: BinaryIO, heard: Heard
) -> tuple[int, bool]:
    """Write one recording, or as much as shows that it is too long; return its length and whether it was clipped."""
    length, clipped = 0, False
    for codes, beyond in encode_blocks(recording, format, heard):
        sink.write(codes.tobytes())
        length += len(codes)
        clipped |= beyond
        if length > longest:
            break
    return length, clipped


def _cut(sink: BinaryIO, end: int) -> None:
    sink.seek(end)
    sink.truncate()


def _nothing_left(source: Source, findings: Findings) -> str:
    if not findings.found:
        return f"no recordings in the {source.split} split of {source.name}: expected wav, flac or ogg files, or others"
    why = "; ".join(findings.lines())
    return f"no recording of the {source.split} split of {source.name} can be used: {why}"
