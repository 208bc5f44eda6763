"""Count the bits that general compressors need for the same clips, to compare a model's bits per sample with.

All of them are lossless on the codes: what they compress decodes to exactly the codes that a model is scored on. The
clips go into one stream, one after another, so that a file's header is paid once and not once for every clip.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence

import numpy as np

from s4gen.data.audio.clips import AudioSet
from s4gen.data.audio.format import AudioFormat, Codes, Samples
from s4gen.data.audio.write import to_pcm16


def compressed_bits(audio: AudioSet) -> dict[str, float]:
    """Return bits per sample by compressor, over all clips of a set; `flac_codes` is for codes of at most 8 bits."""
    clips = [audio.clip(index) for index in range(len(audio))]
    bits = {"gzip": gzip_bits(clips), "flac_sound": flac_sound_bits(clips, audio.format)}
    return bits | ({"flac_codes": flac_codes_bits(clips, audio.format)} if audio.format.bits <= 8 else {})


def gzip_bits(clips: Sequence[Codes]) -> float:
    """Return the bits per sample of the codes as bytes by gzip -9, its 18 bytes of header included.

    Codes of more than 8 bits are two little-endian bytes each.
    """
    codes = np.concatenate(clips)
    return 8 * len(gzip.compress(codes.astype(codes.dtype.newbyteorder("<")).tobytes(), 9, mtime=0)) / len(codes)


def flac_sound_bits(clips: Sequence[Codes], format: AudioFormat) -> float:
    """Return the bits per sample by FLAC, at its strongest, of the codes decoded to 16-bit PCM, without its header.

    After mu-law only 2^bits of the 65536 values occur, which FLAC does not know: this is high.
    """
    return _flac_bits(to_pcm16(format.quantiser.decode(np.concatenate(clips))), format.rate, "PCM_16")


def flac_codes_bits(clips: Sequence[Codes], format: AudioFormat) -> float:
    """Return the bits per sample by FLAC, at its strongest, of the codes as signed 8-bit PCM, without its header.

    For linear codes that is the sound; mu-law codes are the sound with its loudness bent.

    Raises:
        ValueError: codes have more than 8 bits.
    """
    if format.bits > 8:
        raise ValueError(f"codes of {format.bits} bits do not fit 8-bit PCM")
    centred = np.concatenate(clips).astype(np.int16) - format.quantiser.silence
    return _flac_bits(centred * 256, format.rate, "PCM_S8")  # soundfile takes the upper byte


def _flac_bits(samples: Samples | Codes, rate: int, subtype: str) -> float:
    import soundfile  # type: ignore[import-untyped]

    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="FLAC", compression_level=1.0)
    content = file.getvalue()
    return 8 * (len(content) - _header_bytes(content)) / len(samples)


def _header_bytes(flac: bytes) -> int:
    """Count the bytes before the first frame: "fLaC", then blocks of a flag, 24 bits of length, and content."""
    end, last = 4, False
    while not last:
        last = bool(flac[end] & 0x80)
        end += 4 + int.from_bytes(flac[end + 1 : end + 4], "big")
    return end
