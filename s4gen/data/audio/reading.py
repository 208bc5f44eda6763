"""Read recordings as samples, from any file that libsndfile reads, mixed to mono and converted to one rate."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.config.layouts import EXPECTED_RATES, RATES
from s4gen.data.audio.format import AudioFormat, Codes
from s4gen.data.quiet import quiet
from s4gen.errors import UserError
from s4gen.files.reading import open_regular

WANTED = "a wav, flac or ogg file with sound, or another that libsndfile reads"
UNKNOWN_SIZE = 0x7FFF0000
"""Sizes in a header from here on stand for an unknown one."""
BLOCK = 1 << 20
"""Samples of all channels, before and after conversion, that are in memory at a time, however long a recording is."""
LONGEST = 1 << 31
"""Samples of a recording, after conversion: 37 hours at 16 kHz. A header of 100 bytes can ask for more."""
LONGEST_PROMPT = 1 << 21
"""Samples of a prompt, after conversion: two minutes at 16 kHz. A model has to read all of them at once."""
_LAST_PAGES = 1 << 17
"""Bytes at the end of an Ogg file that hold its last page, which has at most 65,307."""


class UnusableError(Exception):
    """Why a recording cannot be used, in a few words."""


@dataclass(frozen=True)
class Recording:
    """Something that can be decoded to sound."""

    name: str
    """Its name in messages: the path below the folder that was given."""
    open: Callable[[], Path | BinaryIO]
    """Opens what soundfile is to read; each call starts anew."""
    label: int | None = None
    """Its class, where it has one."""
    span: tuple[float, float] = (0.0, 1.0)
    """The part of it that counts, as fractions of its length."""


@dataclass
class Heard:
    """Facts about a recording that show only while it is read."""

    broke_off: bool = False
    """It ended before the end that its header names."""


@dataclass(frozen=True)
class Origin:
    """Rate and channels of a recording before conversion."""

    rate: int
    """Frames per second."""
    channels: int
    """Samples per frame."""


def read_origin(recording: Recording) -> Origin:
    """Read rate and channels from the header alone.

    Raises:
        UnusableError: it is not there, no sound file, or one whose rate no sound has.
    """
    with _opened(recording) as file:
        return Origin(file.samplerate, file.channels)


def read_blocks(
    recording: Recording, rate: int, heard: Heard | None = None, most: int = LONGEST
) -> Iterator[NDArray[np.float32]]:
    """Yield the recording as mono samples (n,) at `rate`, block by block; together they hold 1 to `most` samples.

    One that breaks off is read up to there, which `heard` then knows. Channels are averaged. The converter is soxr at
    its high quality; its output does not depend on the blocks.

    Raises:
        UnusableError: it cannot be read to its end, has no samples, more than `most`, or one that is NaN or infinite.
    """
    import soxr  # type: ignore[import-untyped]

    total = 0
    with _opened(recording) as file:
        stream = None
        if file.samplerate != rate:
            stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        # A block that is converted from 100 to a million samples per second is ten thousand times as long.
        size = BLOCK // max(file.channels, -(-rate // file.samplerate))
        for frames in itertools.chain(_frames(file, recording, heard or Heard(), size), [np.zeros((0, 1), np.float32)]):
            with np.errstate(over="ignore"):  # of samples near the largest float32, whose sum is infinite
                block = frames.mean(axis=1, dtype=np.float32) if frames.shape[1] > 1 else frames[:, 0]
            if stream is not None:
                block = stream.resample_chunk(block, last=not len(block))
            if not np.isfinite(block).all():
                raise UnusableError("has samples that are not finite numbers")
            total += len(block)
            if total > most:
                raise UnusableError(f"has more than {most:,} samples at {rate} per second")
            yield block
    if not total:
        raise UnusableError("has no samples")


def encode_blocks(
    recording: Recording, format: AudioFormat, heard: Heard | None = None, most: int = LONGEST
) -> Iterator[tuple[Codes, bool]]:
    """Yield the codes (n,) of one block after another, and whether some were clipped.

    `heard` and `most` are as in `read_blocks`.

    With a normalisation it is read twice: its range comes first.

    Raises:
        UnusableError: as for `read_blocks`.
    """
    quantiser = format.quantiser
    if format.normalise == "none":
        for block in read_blocks(recording, format.rate, heard, most):
            yield quantiser.encode(block), bool((np.abs(block) > 1).any())
        return
    measured = read_blocks(recording, format.rate, most=most)
    ends = [(float(block.min()), float(block.max())) for block in measured if len(block)]
    centre, half = scale_of(min(low for low, _ in ends), max(high for _, high in ends), format.normalise)
    for block in read_blocks(recording, format.rate, heard, most):
        yield quantiser.encode((block.astype(np.float64) - centre) / half), False


def read_prompt(path: str | Path, format: AudioFormat) -> tuple[Codes, list[str]]:
    """Read one recording as codes (n,), n >= 1, and one line for each thing that was changed about it.

    Raises:
        UserError: it cannot be used; the message says why.
    """
    path, heard = Path(path), Heard()
    recording = Recording(str(path), lambda: path)
    try:
        origin = read_origin(recording)
        codes, clipped = zip(*encode_blocks(recording, format, heard, LONGEST_PROMPT), strict=True)
    except UnusableError as error:
        raise UserError(f"{path} {error}: expected {WANTED}") from error
    return np.concatenate(codes), changes(path, origin, format, heard, any(clipped))


def changes(path: Path, origin: Origin, format: AudioFormat, heard: Heard, clipped: bool) -> list[str]:
    """Return one line for each thing that was changed about a recording to bring it to a format."""
    notes = [f"{path} ends before the end that its header names: read up to there"] if heard.broke_off else []
    if origin.rate != format.rate:
        notes.append(f"{path} has {origin.rate} samples per second: resampled to {format.rate}")
    if origin.channels > 1:
        notes.append(f"{path} has {origin.channels} channels: mixed to mono")
    if clipped:
        notes.append(f"{path} goes beyond full scale: clipped")
    return notes


def scale_of(low: float, high: float, normalise: str) -> tuple[float, float]:
    """Return centre and half width of what becomes -1 ... 1; a constant has none, and becomes silence."""
    centre = (low + high) / 2 if normalise == "minmax" else 0.0
    return centre, max(high - centre, centre - low) or 1.0


@contextlib.contextmanager
def _opened(recording: Recording) -> Iterator[Any]:
    """Open a recording as a `soundfile.SoundFile`.

    Raises:
        UnusableError: it is not there, no sound file, or one whose rate no sound has.
    """
    import soundfile  # type: ignore[import-untyped]

    try:
        source = recording.open()
        if isinstance(source, Path):
            open_regular(source).close()  # libsndfile would wait for somebody who writes to a pipe
        with quiet():
            # As bytes, because soundfile would encode a name, and not every one can be.
            file = soundfile.SoundFile(os.fsencode(source) if isinstance(source, Path) else source)
    except (OSError, UserError, soundfile.SoundFileError, TypeError, ValueError) as error:
        raise UnusableError(f"cannot be read ({_reason(error)})") from error
    with file:
        if file.samplerate not in RATES:
            raise UnusableError(f"claims {file.samplerate} samples per second: {EXPECTED_RATES}")
        yield file


def _frames(file: Any, recording: Recording, heard: Heard, size: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of frames (n, channels), 1 <= n <= size, of the recording's part of an open file."""
    import soundfile

    begin, end = (round(file.frames * position) for position in recording.span)
    try:
        if begin:
            with quiet():
                file.seek(begin)
        while begin < end:
            with quiet():
                frames = file.read(min(size, end - begin), dtype="float32", always_2d=True)
            if not len(frames):
                break
            begin += len(frames)
            yield frames
    except (OSError, soundfile.SoundFileError) as error:
        raise UnusableError(f"is damaged ({_reason(error)})") from error
    heard.broke_off = begin < end or _header_names_more(file.extra_info) or _ogg_breaks_off(recording, file.format)


def _header_names_more(log: str) -> bool:
    """Tell whether libsndfile's log of opening a file says that its header names more bytes of sound than there are.

    Programs that write to a pipe do not know the size and write the largest there is.
    """
    for name, declared, found in re.findall(r"^\s*(.*?)\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        # The size of all of the file is often wrong, and the sound whole all the same.
        if name not in ("RIFF", "FORM") and int(found) < int(declared) < UNKNOWN_SIZE:
            return True
    return False


def _ogg_breaks_off(recording: Recording, kind: str) -> bool:
    """Tell whether an Ogg file lacks the page that ends a stream, for which libsndfile does not ask."""
    if kind != "OGG":
        return False
    source = recording.open()
    with open_regular(source) if isinstance(source, Path) else source as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LAST_PAGES))
        content = file.read(_LAST_PAGES)
    page = content.rfind(b"OggS")
    return page < 0 or len(content) < page + 6 or not content[page + 5] & 4


def _reason(error: Exception) -> str:
    """Return the words of libsndfile or of the system, without the name of the file."""
    text = str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error)
    return text.strip().rstrip(".").removeprefix("Error : ")
