"""Compressors as references, and pictures of clips."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from sounds import noise, tone

from s4gen.data.audio import AudioFormat, open_split
from s4gen.data.audio.published import PUBLISHED
from s4gen.data.audio.references import (
    _flac_bits,
    compressed_bits,
    flac_codes_bits,
    flac_sound_bits,
    gzip_bits,
)
from s4gen.data.audio.write import draw_clips, spectrogram

MU_LAW, LINEAR = AudioFormat(8000), AudioFormat(8000, "linear")


def test_codes_that_are_noise_cost_all_their_bits_and_silence_nothing() -> None:
    random = np.random.default_rng(0).integers(0, 256, 50_000).astype(np.uint8)
    silence = np.full(50_000, 128, np.uint8)
    for bits in (gzip_bits, lambda clips: flac_codes_bits(clips, LINEAR)):
        assert 8 <= bits([random]) < 8.1
        assert bits([silence]) < 0.05
    assert flac_sound_bits([silence], MU_LAW) < 0.05


def test_gzip_bits_are_those_of_a_file_of_the_codes() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 9, n).astype(np.uint8) for n in (500, 700)]
    content = gzip.compress(clips[0].tobytes() + clips[1].tobytes(), 9)
    assert gzip_bits(clips) == 8 * len(content) / 1200
    wide = [clip.astype(np.uint16) for clip in clips]
    assert gzip_bits(wide) == 8 * len(gzip.compress(np.concatenate(wide).astype("<u2").tobytes(), 9)) / 1200


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_S8"])
def test_flac_bits_are_those_of_a_lossless_file_less_its_header(subtype: str) -> None:
    unit = 256 if subtype == "PCM_S8" else 1
    samples = (np.rint(tone(5000) * 30_000 / unit) * unit).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, subtype, format="FLAC", compression_level=1.0)
    in_file = 8 * len(file.getvalue()) / 5000
    assert _flac_bits(samples, 8000, subtype) == pytest.approx(in_file - 8 * 86 / 5000)
    file.seek(0)
    np.testing.assert_array_equal(soundfile.read(file, dtype="int16")[0], samples)


def test_every_linear_code_survives_flac_of_eight_bits() -> None:
    codes = np.arange(256)
    file = io.BytesIO()
    soundfile.write(file, (codes.astype(np.int16) - 128) * 256, 8000, "PCM_S8", format="FLAC")
    file.seek(0)
    np.testing.assert_array_equal(soundfile.read(file, dtype="int16")[0] // 256 + 128, codes)


def test_real_digits_cost_less_than_they_are_stored_in() -> None:
    for format in (MU_LAW, LINEAR):
        bits = compressed_bits(open_split("fsdd-mini", "test", format))
        assert set(bits) == {"gzip", "flac_sound", "flac_codes"}
        assert 2 < bits["flac_codes"] < bits["gzip"] < 7
    sixteen = compressed_bits(open_split("fsdd-mini", "test", AudioFormat(8000, "linear", 16)))
    assert set(sixteen) == {"gzip", "flac_sound"}
    assert bits["flac_codes"] < sixteen["flac_sound"] < sixteen["gzip"] < 16


def test_codes_of_more_than_eight_bits_are_no_eight_bit_pcm() -> None:
    with pytest.raises(ValueError, match="9 bits do not fit"):
        flac_codes_bits([np.zeros(9, np.uint16)], AudioFormat(8000, bits=9))


@pytest.mark.parametrize("frequency", [500.0, 1000.0, 3500.0])
def test_the_spectrogram_of_a_tone_is_a_line_at_its_frequency(frequency: float) -> None:
    power = spectrogram(tone(8000, frequency), 8000)
    bins, frames = power.shape
    assert (bins - 1) * 2 == 256
    assert frames == 8000 // 64 + 1
    assert (power[:, 4:-4].argmax(axis=0) == round(frequency / 4000 * (bins - 1))).all()


def test_a_picture_is_a_png_that_grows_with_the_clips() -> None:
    sizes = []
    for n in (1, 5, 7):
        content = draw_clips([tone(300 * (i + 1)) for i in range(n)], 8000, [f"clip {i}" for i in range(n)])
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            sizes.append(image.size)
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]


def test_silent_and_very_short_clips_are_drawn_too() -> None:
    audio = open_split("fsdd-mini", "test", PUBLISHED["fsdd-mini"].format)
    real = audio.format.quantiser.decode(audio.clip(0))
    for clips in ([np.zeros(100)], [noise(1)], [np.zeros(1), noise(3), real]):
        assert draw_clips(clips, 8000, ["x"] * len(clips)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="zip"):
        draw_clips([real], 8000, [])
