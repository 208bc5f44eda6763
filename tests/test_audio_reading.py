"""Any sound file becomes mono samples at one rate; what cannot is skipped by name and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sounds import encoded, noise, put, tone

from s4gen.data.audio import AudioFormat, AudioSet, open_split, reading
from s4gen.data.audio.reading import Recording, UnusableError, read_blocks, read_prompt
from s4gen.errors import UserError

FORMAT = AudioFormat(8000, "linear", 16)
"""Codes less 32768 are 16-bit samples."""


def samples_of(path: Path, rate: int = 8000) -> np.ndarray:
    return np.concatenate(list(read_blocks(Recording(path.name, lambda: path), rate)))


def folder_of(root: Path, **files: bytes | np.ndarray) -> Path:
    """train/ with these files, and a test/ that is never empty."""
    put(root / "test" / "always.wav", noise(50))
    for name, content in files.items():
        path = root / "train" / name.replace("_", ".")
        if isinstance(content, bytes):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        else:
            put(path, content)
    return root


def load(folder: Path, format: AudioFormat = FORMAT, **limits: float) -> AudioSet:
    return open_split(str(folder), "train", format, **limits)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "A.WAV"])
def test_sixteen_bit_files_read_exactly(name: str, tmp_path: Path) -> None:
    samples = noise(1000)
    read = samples_of(put(tmp_path / name, samples))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize(
    ("subtype", "error"), [("PCM_24", 2**-23), ("FLOAT", 2**-24), ("DOUBLE", 2**-24), ("PCM_U8", 2**-7)]
)
def test_other_kinds_of_samples_read_to_their_precision(subtype: str, error: float, tmp_path: Path) -> None:
    samples = tone(1000, amplitude=0.9)
    assert np.abs(samples_of(put(tmp_path / "a.wav", samples, subtype=subtype)) - samples).max() <= error


def test_ogg_files_are_read(tmp_path: Path) -> None:
    samples = tone(8000)
    read = samples_of(put(tmp_path / "a.ogg", samples))
    assert np.corrcoef(read, samples)[0, 1] > 0.99


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_are_averaged(channels: int, tmp_path: Path) -> None:
    samples = np.stack([noise(500, seed) for seed in range(channels)], axis=1)
    read = samples_of(put(tmp_path / "a.wav", samples))
    np.testing.assert_allclose(read, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 16_000, 11_025])
def test_another_rate_keeps_the_tone_and_the_length_in_seconds(rate: int, tmp_path: Path) -> None:
    path = put(tmp_path / "a.wav", tone(8000, 440.0), subtype="FLOAT")
    read = samples_of(path, rate)
    assert abs(len(read) - rate) <= 1
    middle = slice(rate // 4, 3 * rate // 4)  # the filter rings at both ends
    np.testing.assert_allclose(read[middle], tone(rate, 440.0, rate)[middle], atol=1e-3)


def test_what_half_the_rate_cannot_hold_is_filtered_out_not_folded_back(tmp_path: Path) -> None:
    path = put(tmp_path / "a.wav", tone(8000, 3000.0), subtype="FLOAT")
    assert np.abs(samples_of(path, 4000)[500:-500]).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 6000])
def test_samples_do_not_depend_on_the_blocks(rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.wav", noise(5000))
    whole = samples_of(path, rate)
    monkeypatch.setattr(reading, "BLOCK", 77)
    np.testing.assert_array_equal(samples_of(path, rate), whole)


def test_a_folder_is_read_with_its_folders_and_other_files_are_none_of_ours(tmp_path: Path) -> None:
    put(tmp_path / "train" / "deep" / "er" / "b.flac", noise(30, 1))
    folder_of(tmp_path, a_wav=noise(20), notes_txt=b"hello", _hidden_wav=b"junk")
    audio = load(tmp_path)
    assert audio.names == ("train/a.wav", "train/deep/er/b.flac")
    assert audio.lengths.tolist() == [20, 30]
    np.testing.assert_array_equal(audio.clip(1) - 32768.0, noise(30, 1) * 32768)
    assert audio.findings.lines() == []


BAD = {
    "cannot be read": b"",
    "cannot be read (Format not recognised)": b"no sound at all, only words" * 9,
    "has no samples": encoded(np.zeros(0), kind="WAV"),
    "is damaged": encoded(noise(5000))[:4000],
    "has samples that are not finite numbers": None,
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_used_is_skipped_by_name_and_counted(reason: str, tmp_path: Path) -> None:
    folder_of(tmp_path, a_wav=noise(20), c_wav=noise(30))
    bad = tmp_path / "train" / "b.wav"
    if (content := BAD[reason]) is None:
        put(bad, np.where(np.arange(100) == 50, np.nan, 0.1), subtype="FLOAT")
    else:
        bad.write_bytes(content)
    audio = load(tmp_path)
    assert audio.lengths.tolist() == [20, 30]
    (line,) = audio.findings.lines()
    assert line.startswith(f"skipped 1 of 3 recordings: train/b.wav {reason}")
    np.testing.assert_array_equal(audio.clip(1) - 32768.0, noise(30) * 32768)


def test_a_recording_that_fails_late_leaves_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 10)
    folder_of(tmp_path, a_wav=noise(20), c_wav=noise(30))
    put(tmp_path / "train" / "b.wav", np.where(np.arange(100) == 95, np.inf, 0.1), subtype="FLOAT")
    audio = load(tmp_path)
    assert audio.codes.tolist() == [*audio.clip(0), *audio.clip(1)]
    assert audio.findings.skipped == (("train/b.wav", "has samples that are not finite numbers"),)


@pytest.mark.parametrize("normalise", ["none", "peak", "minmax"])
def test_if_no_recording_is_left_that_is_an_error_with_the_reasons(normalise: str, tmp_path: Path) -> None:
    empty = encoded(np.zeros(0), kind="WAV")
    folder_of(tmp_path, a_wav=empty, **{f"b{i}_wav": b"x" for i in range(7)})
    with pytest.raises(UserError) as refused:
        load(tmp_path, AudioFormat(8000, normalise=normalise))
    assert "can be used: skipped 8 of 8 recordings: train/a.wav has no samples; train/b0.wav" in str(refused.value)
    assert str(refused.value).endswith("; and 3 more")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no wav, flac or ogg files, nor do its folders"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="holds no wav, flac or ogg files, nor do its folders"):
        load(tmp_path)


def test_lengths_outside_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    folder_of(tmp_path, a_wav=noise(799), b_wav=noise(800), c_wav=noise(1600), d_wav=noise(1601), e_wav=noise(9000))
    audio = load(tmp_path, min_seconds=0.1, max_seconds=0.2)
    assert audio.lengths.tolist() == [800, 1600]
    assert audio.findings.lines() == [
        "left out 1 of 5 recordings: shorter than asked for",
        "left out 2 of 5 recordings: longer than asked for",
    ]
    with pytest.raises(UserError, match="left out 5 of 5 recordings: shorter"):
        load(tmp_path, min_seconds=10)


def test_what_was_changed_is_said(tmp_path: Path) -> None:
    folder_of(tmp_path, a_wav=noise(200))
    put(tmp_path / "train" / "b.wav", np.zeros((300, 2)), rate=16_000)
    put(tmp_path / "train" / "c.wav", tone(100, amplitude=1.5), subtype="FLOAT")
    audio = load(tmp_path)
    assert audio.lengths.tolist() == [200, 150, 100]
    assert audio.findings.lines() == [
        "1 of 3 recordings had another sampling rate and were resampled",
        "1 of 3 recordings had several channels and were mixed to mono",
        "1 of 3 recordings went beyond full scale and were clipped",
    ]
    assert load(tmp_path, AudioFormat(8000, normalise="peak")).findings.clipped == 0


def test_normalisation_is_of_the_whole_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 2)
    folder_of(tmp_path, a_wav=np.array([0.0, 0.25, -0.125, 0.0, 0.125]), b_wav=np.full(5, 0.25), c_wav=np.zeros(3))

    def clips(normalise: str) -> list[list[float]]:
        audio = load(tmp_path, AudioFormat(8000, "linear", 16, normalise))
        return [(audio.clip(i) / 32768 - 1).round(3).tolist() for i in range(3)]

    assert clips("none") == [[0.0, 0.25, -0.125, 0.0, 0.125], [0.25] * 5, [0.0] * 3]
    assert clips("peak") == [[0.0, 1.0, -0.5, 0.0, 0.5], [1.0] * 5, [0.0] * 3]
    # -0.125 ... 0.25 becomes -1 ... 1; a constant has no range and becomes silence.
    assert clips("minmax") == [[-0.333, 1.0, -1.0, -0.333, 0.333], [0.0] * 5, [0.0] * 3]


def test_a_prompt_is_resampled_and_said_so(tmp_path: Path) -> None:
    path = put(tmp_path / "clip.wav", np.stack([tone(3200, 440, 16_000)] * 2, axis=1), rate=16_000)
    codes, notes = read_prompt(path, FORMAT)
    assert codes.shape == (1600,)
    assert notes == [
        f"{path} has 16000 samples per second: resampled to 8000",
        f"{path} has 2 channels: mixed to mono",
    ]
    path = put(tmp_path / "loud.wav", tone(100, amplitude=2.0), subtype="FLOAT")
    assert read_prompt(path, FORMAT)[1] == [f"{path} goes beyond full scale: clipped"]
    path = put(tmp_path / "fits.wav", noise(100))
    codes, notes = read_prompt(path, FORMAT)
    assert notes == []
    np.testing.assert_array_equal(codes - 32768.0, noise(100) * 32768)


@pytest.mark.parametrize("name", ["missing.wav", "empty.wav", "words.wav", "folder"])
def test_a_prompt_that_cannot_be_used_is_one_sentence(name: str, tmp_path: Path) -> None:
    put(tmp_path / "empty.wav", np.zeros(0))
    (tmp_path / "words.wav").write_text("no sound")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"{name} (cannot be read|has no samples).*expected a wav, flac or ogg file"):
        read_prompt(tmp_path / name, FORMAT)


def test_one_sample_at_a_high_rate_may_be_none_at_a_low_one(tmp_path: Path) -> None:
    with pytest.raises(UnusableError, match="has no samples"):
        samples_of(put(tmp_path / "a.wav", np.zeros(1), rate=44_100))
