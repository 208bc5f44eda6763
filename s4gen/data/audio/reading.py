"""Recordings to samples: any wav, flac or ogg file, mixed to mono and converted to one rate, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.quantise import Codes
from s4gen.errors import UserError

EXTENSIONS = (".wav", ".flac", ".ogg")
"""Endings of the files that count as recordings, in either case."""
BLOCK = 1 << 20
"""Frames decoded at a time, so that memory does not grow with the length of a recording."""


class UnusableError(Exception):
    """Why a recording cannot be used, in a few words."""


@dataclass(frozen=True)
class Recording:
    """Something that can be decoded to sound."""

    name: str
    """What messages call it: its path below the folder that was given."""
    open: Callable[[], Path | BinaryIO]
    """What soundfile is to read; each call starts anew."""
    label: int | None = None
    """Its class, where it has one."""


@dataclass(frozen=True)
class Origin:
    """What a recording is before conversion."""

    rate: int
    """Frames per second."""
    channels: int
    """Samples per frame."""


def read_origin(recording: Recording) -> Origin:
    """Rate and channels, from the header alone.

    Raises:
        UnusableError: it is not there, or no sound file.
    """
    with _opened(recording) as file:
        return Origin(file.samplerate, file.channels)


def read_blocks(recording: Recording, rate: int) -> Iterator[NDArray[np.float32]]:
    """The recording as mono samples (n,) at `rate`, one block after another; together they hold at least one sample.

    Channels are averaged. The converter is soxr at its high quality; its output does not depend on the blocks.

    Raises:
        UnusableError: it cannot be read to its end, has no samples, or one that is NaN or infinite.
    """
    import soxr  # type: ignore[import-untyped]

    total = 0
    with _opened(recording) as file:
        stream = None
        if file.samplerate != rate:
            stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        for frames in itertools.chain(_frames(file), [np.zeros((0, 1), np.float32)]):
            if not np.isfinite(frames).all():
                raise UnusableError("has samples that are not finite numbers")
            block = frames.mean(axis=1, dtype=np.float32) if frames.shape[1] > 1 else frames[:, 0]
            if stream is not None:
                block = stream.resample_chunk(block, last=not len(block))
            total += len(block)
            yield block
    if not total:
        raise UnusableError("has no samples")


def encode_blocks(recording: Recording, form: AudioFormat) -> Iterator[tuple[Codes, bool]]:
    """The recording as codes (n,), and whether some were clipped, one block after another.

    With a normalisation it is read twice: its range comes first.

    Raises:
        UnusableError: as `read_blocks`.
    """
    quantiser = form.quantiser
    if form.normalise == "none":
        for block in read_blocks(recording, form.rate):
            yield quantiser.encode(block), bool((np.abs(block) > 1).any())
        return
    ends = [(float(block.min()), float(block.max())) for block in read_blocks(recording, form.rate) if len(block)]
    centre, half = _range(min(low for low, _ in ends), max(high for _, high in ends), form.normalise)
    for block in read_blocks(recording, form.rate):
        yield quantiser.encode((block.astype(np.float64) - centre) / half), False


def read_prompt(path: str | Path, form: AudioFormat) -> tuple[Codes, list[str]]:
    """One recording as codes (n,), n >= 1, and one line for each thing that was changed about it.

    Raises:
        UserError: it cannot be used; the message says why.
    """
    path = Path(path)
    recording = Recording(str(path), lambda: path)
    try:
        origin = read_origin(recording)
        codes, clipped = zip(*encode_blocks(recording, form), strict=True)
    except UnusableError as error:
        raise UserError(f"{path} {error}: expected a wav, flac or ogg file with sound") from error
    notes = []
    if origin.rate != form.rate:
        notes.append(f"{path} has {origin.rate} samples per second: resampled to {form.rate}")
    if origin.channels > 1:
        notes.append(f"{path} has {origin.channels} channels: mixed to mono")
    if any(clipped):
        notes.append(f"{path} goes beyond full scale: clipped")
    return np.concatenate(codes), notes


def _range(low: float, high: float, normalise: str) -> tuple[float, float]:
    """Centre and half width of what becomes -1 ... 1; a constant has none, and becomes silence."""
    centre = (low + high) / 2 if normalise == "minmax" else 0.0
    return centre, max(high - centre, centre - low) or 1.0


def _opened(recording: Recording) -> Any:
    """An open `soundfile.SoundFile`.

    Raises:
        UnusableError: it is not there, or no sound file.
    """
    import soundfile  # type: ignore[import-untyped]

    try:
        return soundfile.SoundFile(recording.open())
    except (OSError, soundfile.SoundFileError) as error:
        raise UnusableError(f"cannot be read ({_reason(error)})") from error


def _frames(file: Any) -> Iterator[NDArray[np.float32]]:
    """Blocks of frames (n, channels), n >= 1, to the end of an open file."""
    import soundfile

    while True:
        try:
            frames = file.read(BLOCK, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            raise UnusableError(f"is damaged ({_reason(error)})") from error
        if not len(frames):
            return
        yield frames


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the name of the file."""
    text = str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error)
    return text.strip().rstrip(".").removeprefix("Error : ")
