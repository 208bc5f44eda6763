"""Recordings to tokens and back, sample for sample.

A token is the code of a sample, and a code of 8 bits stands for many of the 65,536 values of 16 bits. So behind each
token comes which of them it is, coded evenly: no model could do much better, as a code's values lie close together.
Where the codes alone are enough, as in a file that s4gen has written, they are all that is kept.

A wav file comes back byte for byte: what stands around its samples is kept where it is not what Python's `wave` module
writes. Of a flac file the samples come back, in a new flac file.
"""

from __future__ import annotations

import io
import wave
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.compress.coding import Whole
from s4gen.compress.contents import Item
from s4gen.compress.varints import Reader, number, signed, unsigned, with_size
from s4gen.config import AudioLayout
from s4gen.config.names import WRITTEN_SOUND
from s4gen.data.audio.format import AudioFormat, format_of
from s4gen.data.audio.reading import Heard, Recording, UnusableError, encode_blocks, scale_of
from s4gen.data.audio.write import to_pcm16
from s4gen.data.quiet import quiet
from s4gen.errors import UserError
from s4gen.files.reading import LARGE, read_bounded

FORMATS = ("wav", "flac")
"""The files of which every sample can come back; their number in this list is kept."""
DEPTHS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
"""Bits of a sample, by libsndfile's name."""
_INFLATION = 1040
"""zlib makes at most so many bytes of one."""


@dataclass(frozen=True)
class Kept:
    """The facts that are kept of a recording beside its tokens."""

    depth: int = 16
    """Bits of a sample."""
    kind: str = "wav"
    """One of `FORMATS`."""
    codes_alone: bool = False
    """Samples are those that codes stand for, and nothing stands behind a token."""
    ends: tuple[int, int] = (0, 0)
    """The lowest and the highest sample, from which follows how codes were normalised."""
    around: tuple[bytes, bytes] | None = None
    """The bytes before and behind the samples of a wav file; None where they are the usual ones."""

    def pack(self) -> bytes:
        """Return the extra bytes of an item."""
        flags = self.codes_alone + 2 * (self.around is not None) + 4 * FORMATS.index(self.kind)
        content = number(flags) + number(self.depth) + number(signed(self.ends[0])) + number(signed(self.ends[1]))
        return content if self.around is None else content + zlib.compress(b"".join(map(with_size, self.around)), 9)

    @classmethod
    def unpack(cls, extra: bytes) -> Kept:
        """Invert `pack`.

        Raises:
            ValueError: these are no such bytes.
        """
        reader = Reader(extra)
        flags, depth = reader.number(7), reader.number(24)
        if depth not in DEPTHS.values():
            raise ValueError(f"samples of {depth} bits")
        ends = unsigned(reader.number(1 << 25)), unsigned(reader.number(1 << 25))
        around = None
        if flags & 2:
            try:
                inner = Reader(zlib.decompressobj().decompress(reader.rest, _INFLATION * len(extra)))
            except zlib.error as error:
                raise ValueError("what stood around the samples is no zlib") from error
            around = inner.text(), inner.text()
        elif not reader.at_end:
            raise ValueError("extra bytes behind the end")
        return cls(depth, FORMATS[flags >> 2], bool(flags & 1), ends, around)


class Sound:
    """Recordings in the format of one model."""

    suffix = ""
    length = 0

    def __init__(self, layout: AudioLayout) -> None:
        """Take the layout of the model."""
        self._format = format_of(layout)

    def read(self, path: Path, lossy: bool) -> Item:
        """Read a recording; see `Contents`. With `lossy`, the codes are all that is kept of any recording."""
        if lossy:
            return self._codes(path)
        data, rate = read_bounded(path, LARGE), self._format.rate
        samples, depth, kind = self._decoded(path, data)
        kept = Kept(depth, kind, around=_around(path, data, samples, depth, rate) if kind == "wav" else None)
        if self._format.normalise != "none":
            kept = replace(kept, ends=(int(samples.min()), int(samples.max())))
        codes = _codes_of(self._format, samples, depth, kept.ends)
        bounds = _bounds(self._format, depth, kept.ends)
        fine = None if (alone := self._says_all(codes, samples, depth)) else samples - bounds[codes]
        kept = replace(kept, codes_alone=alone)
        if (self._samples(codes, fine, kept) != samples).any():
            raise AssertionError(f"{path} does not come back")
        item = Item(path, path.name, len(samples) * depth // 8, codes, fine, kept.pack())
        if kind == "flac":
            item.notes.append(f"{path}: its samples are kept; tags and pictures, if it has any, are not")
        return item

    def widths(self, extra: bytes) -> Whole | None:
        """Return how many values of samples each code stands for; see `Contents`."""
        kept = Kept.unpack(extra)
        return None if kept.codes_alone else np.diff(_bounds(self._format, kept.depth, kept.ends))

    def restore(self, tokens: Whole, fine: Whole | None, extra: bytes) -> bytes:
        """Return the recording as wav or flac; see `Contents`."""
        kept = Kept.unpack(extra)
        samples = self._samples(tokens, fine, kept)
        if kept.kind == "flac":
            return flac(samples, self._format.rate, kept.depth)
        if kept.around is not None:
            return pcm(samples, kept.depth).join(kept.around)
        return wav(samples, self._format.rate, kept.depth)

    def _samples(self, tokens: Whole, fine: Whole | None, kept: Kept) -> Whole:
        if kept.codes_alone or fine is None:
            return to_pcm16(self._format.quantiser.decode(tokens)).astype(np.int64)
        return _bounds(self._format, kept.depth, kept.ends)[tokens] + fine

    def _says_all(self, codes: Whole, samples: Whole, depth: int) -> bool:
        """Return whether these are the very samples that codes stand for, as in a file that s4gen has written."""
        if self._format.normalise != "none" or depth != 16:
            return False
        return bool((to_pcm16(self._format.quantiser.decode(codes)) == samples).all())

    def _codes(self, path: Path) -> Item:
        """Read a recording as it is read for training, as codes alone; it comes back as wav, or as flac.

        Raises:
            UserError: it cannot be read.
        """
        heard = Heard()
        try:
            blocks = list(encode_blocks(Recording(str(path), lambda: path), self._format, heard))
        except UnusableError as error:
            raise UserError(f"{path} {error}") from error
        codes = np.concatenate([block for block, _ in blocks]).astype(np.int64)
        name = path.name if path.suffix.lower() in WRITTEN_SOUND else f"{path.stem}.wav"
        kind = "flac" if name.lower().endswith(".flac") else "wav"
        item = Item(path, name, 2 * len(codes), codes, extra=Kept(kind=kind, codes_alone=True).pack())
        if heard.broke_off:
            item.notes.append(f"{path} ends before the end that its header names: read up to there")
        return item

    def _decoded(self, path: Path, data: bytes) -> tuple[Whole, int, str]:
        """Return the samples (n,) of a file as whole numbers, their bits, and which of `FORMATS` it has.

        Raises:
            UserError: it has no samples, or not such as can be kept without loss.
        """
        import soundfile  # type: ignore[import-untyped]

        rate = self._format.rate
        wanted = f"expected a wav or flac file, mono, {rate} samples per second, of 8, 16 or 24 bits"
        try:
            with quiet(), soundfile.SoundFile(io.BytesIO(data)) as file:
                kind, depth = file.format.lower().removesuffix("ex"), DEPTHS.get(file.subtype, 0)
                what = f"{file.format} {file.subtype}, {file.channels} channels, {file.samplerate} samples per second"
                fits = kind in FORMATS and depth and file.channels == 1 and file.samplerate == rate
                samples = file.read(dtype="int32") if fits else np.zeros(0, np.int32)
                whole = len(samples) == file.frames
        except (OSError, soundfile.SoundFileError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} cannot be read as sound: {wanted}") from error
        if not fits:
            raise UserError(f"{path} is {what}: {wanted}; --lossy converts it, and keeps the model's codes alone")
        if not whole:
            raise UserError(
                f"{path} is damaged: it ends before the end that its header names; mend it, or give --lossy"
            )
        if not len(samples):
            raise UserError(f"{path} has no samples, so there is nothing to compress; leave it out")
        return samples.astype(np.int64) >> (32 - depth), depth, kind


def pcm(samples: Whole, depth: int) -> bytes:
    """Return samples (n,) as a wav file holds them: little-endian, and without a sign where they have 8 bits."""
    if depth == 8:
        return (samples + 128).astype(np.uint8).tobytes()
    if depth == 16:
        return samples.astype("<i2").tobytes()
    return samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def wav(samples: Whole, rate: int, depth: int) -> bytes:
    """Return samples (n,) as a wav file."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(depth // 8)
        file.setframerate(rate)
        file.writeframes(pcm(samples, depth))
    return content.getvalue()


def flac(samples: Whole, rate: int, depth: int) -> bytes:
    """Return samples (n,) as a flac file, packed as tightly as FLAC can."""
    import soundfile

    content, subtype = io.BytesIO(), {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[depth]
    wide = (samples << (32 - depth)).astype(np.int32)
    soundfile.write(content, wide, rate, subtype, format="FLAC", compression_level=1.0)
    return content.getvalue()


def _around(path: Path, data: bytes, samples: Whole, depth: int, rate: int) -> tuple[bytes, bytes] | None:
    """Return what stands before and behind the samples of a wav file; None if that is what `wav` writes.

    Raises:
        UserError: its samples do not lie in it as they are.
    """
    if data == wav(samples, rate, depth):
        return None
    content = pcm(samples, depth)
    before, found, behind = data.partition(content)
    if not found:
        raise UserError(f"{path} is a wav file of another form than usual; --lossy keeps the model's codes alone")
    return before, behind


def _codes_of(format: AudioFormat, samples: Whole, depth: int, ends: tuple[int, int]) -> Whole:
    """Return the codes of whole samples (n,), of a recording with these lowest and highest samples."""
    full = float(1 << (depth - 1))
    values: NDArray[Any] = samples / full
    if format.normalise != "none":
        centre, half = scale_of(ends[0] / full, ends[1] / full, format.normalise)
        values = (values - centre) / half
    return format.quantiser.encode(values).astype(np.int64)


@lru_cache(maxsize=64)
def _bounds(format: AudioFormat, depth: int, ends: tuple[int, int]) -> Whole:
    """Return the lowest sample of each code, and one more than the highest of the last: (V + 1,), by bisection."""
    codes, full = np.arange(format.quantiser.levels + 1), 1 << (depth - 1)
    low, high = np.full(codes.shape, -full), np.full(codes.shape, full)
    for _ in range(depth + 1):
        middle = (low + high) // 2
        reached = _codes_of(format, np.minimum(middle, full - 1), depth, ends) >= codes
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return high
