"""Sound on disk: exact, there completely or not at all, playable after Ctrl-C, never over something by accident."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from processes import running
from sounds import noise, tone

from s4gen.config.layouts import LAWS
from s4gen.data.audio import AudioFormat, Quantiser
from s4gen.data.audio.reading import read_prompt
from s4gen.data.audio.write import (
    AudioWriter,
    check_audio_output,
    open_writers,
    sample_paths,
    to_pcm16,
    write_audio,
    write_pcm,
)
from s4gen.errors import UserError


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "B.FLAC"])
def test_codes_written_and_read_are_the_same_codes(law: str, name: str, tmp_path: Path) -> None:
    for bits in (2, 8):
        codes = np.random.default_rng(0).permutation(np.arange(1000) % 2**bits)
        write_audio(tmp_path / name, Quantiser(law, bits).decode(codes), 8000)
        read, notes = read_prompt(tmp_path / name, AudioFormat(8000, law, bits))
        np.testing.assert_array_equal(read, codes)
        assert notes == []


def test_files_are_sixteen_bit_mono_of_the_kind_that_the_name_says(tmp_path: Path) -> None:
    for name, kind in (("a.wav", "WAV"), ("a.flac", "FLAC")):
        write_audio(tmp_path / name, noise(100), 16_000)
        info = soundfile.info(tmp_path / name)
        assert (info.format, info.subtype, info.channels, info.samplerate) == (kind, "PCM_16", 1, 16_000)
        np.testing.assert_array_equal(soundfile.read(tmp_path / name)[0], noise(100))


def test_samples_are_rounded_and_clipped_to_sixteen_bits() -> None:
    samples = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 1.6 / 32768, -0.4 / 32768], np.float32)
    assert to_pcm16(samples).tolist() == [0, 32767, -32768, 32767, -32768, 2, 0]


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_chunks_make_the_same_file_as_the_whole(name: str, tmp_path: Path) -> None:
    samples = noise(1000)
    with AudioWriter(tmp_path / "new" / name, 8000) as writer:
        for chunk in np.array_split(samples, 7):
            writer.append(chunk)
            assert not (tmp_path / "new" / name).exists()
    assert writer.samples == 1000
    assert files_in(tmp_path / "new") == {name}
    np.testing.assert_array_equal(soundfile.read(tmp_path / "new" / name)[0], samples)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_an_interrupt_keeps_what_there_is_as_a_file_that_plays(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_writers([tmp_path / name, tmp_path / f"b-{name}"], 8000) as writers:
        for writer in writers:
            writer.append(noise(300))
        writers[0].append(noise(50, 1))
        raise KeyboardInterrupt
    assert files_in(tmp_path) == {name, f"b-{name}"}
    np.testing.assert_array_equal(soundfile.read(tmp_path / name)[0], np.concatenate([noise(300), noise(50, 1)]))
    np.testing.assert_array_equal(soundfile.read(tmp_path / f"b-{name}")[0], noise(300))


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_or_an_interrupt_before_the_first_sample_leaves_all_as_it_was(
    failure: type[BaseException], tmp_path: Path
) -> None:
    (tmp_path / "old.wav").write_bytes(b"what was there")
    with pytest.raises(failure), open_writers([tmp_path / "old.wav", tmp_path / "new.flac"], 8000) as writers:
        if failure is RuntimeError:
            writers[0].append(noise(10))
        raise failure
    assert files_in(tmp_path) == {"old.wav"}
    assert (tmp_path / "old.wav").read_bytes() == b"what was there"


def test_control_c_in_the_middle_of_generation_leaves_a_file_that_plays(tmp_path: Path) -> None:
    """A real signal to a real process that writes for ever."""
    program = (
        "import sys, numpy as np; from s4gen.data.audio.write import AudioWriter\n"
        "with AudioWriter(sys.argv[1], 8000) as out:\n"
        "    while True:\n"
        "        out.append(np.full(500, 0.25)); print(out.samples, flush=True)\n"
    )
    path = tmp_path / "a.wav"
    with running([sys.executable, "-c", program, path]) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")
    samples, rate = soundfile.read(path)
    assert len(samples) >= 2500
    assert len(samples) % 500 == 0
    assert (samples == 0.25).all()
    assert rate == 8000
    assert files_in(tmp_path) == {"a.wav"}


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel refuses to let a file of this process grow beyond 20 kB."""
    (tmp_path / "a.wav").write_bytes(b"what was there")
    program = (
        "import resource, signal, sys, numpy as np; from s4gen.data.audio.write import AudioWriter\n"
        "from s4gen.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        "    with AudioWriter(sys.argv[1], 8000) as out:\n"
        "        for _ in range(100): out.append(np.zeros(1000))\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.wav"], capture_output=True, text=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'a.wav'}: ")
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == {"a.wav"}
    assert (tmp_path / "a.wav").read_bytes() == b"what was there"


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*a\.wav: "):
        write_audio(tmp_path / "file" / "a.wav", noise(9), 8000)
    with pytest.raises(UserError, match=r"a\.mp3: sound is written to names that end in \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", noise(9), 8000)


def test_raw_pcm_is_little_endian_and_goes_out_at_once() -> None:
    class Pipe(io.BytesIO):
        flushed = b""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    pipe = Pipe()
    write_pcm(pipe, np.array([0.0, 1 / 32768, -1.0]))
    assert pipe.flushed == b"\x00\x00\x01\x00\x00\x80"
    write_pcm(pipe, np.array([0.5]))
    assert pipe.flushed == b"\x00\x00\x01\x00\x00\x80\x00\x40"


def test_raw_pcm_of_a_real_pipe_arrives_while_it_is_made(tmp_path: Path) -> None:
    out, into = os.pipe()
    with os.fdopen(into, "wb") as stream, os.fdopen(out, "rb") as reader:
        write_pcm(stream, tone(100))
        began = time.monotonic()
        assert len(reader.read(200)) == 200
        assert time.monotonic() - began < 5


def test_samples_are_numbered_and_named_by_their_class() -> None:
    assert [path.name for path in sample_paths("out", 2)] == ["000.wav", "001.wav"]
    assert [str(path) for path in sample_paths("out", 2, ".flac", [7, 3])] == ["out/000-7.flac", "out/001-3.flac"]
    many = [path.name for path in sample_paths("out", 1001)]
    assert (many[0], many[-1]) == ("0000.wav", "1000.wav")
    assert many == sorted(many)


def test_what_exists_is_refused_without_force(tmp_path: Path) -> None:
    file, folder, empty = tmp_path / "a.wav", tmp_path / "full", tmp_path / "empty"
    file.touch()
    folder.mkdir()
    (folder / "a").touch()
    empty.mkdir()
    for out in (file, folder):
        with pytest.raises(UserError, match=f"{out.name} exists; choose another name, or write over it with --force"):
            check_audio_output(out, 1, force=False)
        check_audio_output(out, 1, force=True)
    for out in (empty, tmp_path / "new", tmp_path / "new.flac", tmp_path / "new" / "deep.WAV"):
        check_audio_output(out, 1, force=False)


def test_places_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    refusals = {
        "a.mp3": "sound is written as wav or flac",
        "file": "is a file; choose another name",
        "folder.wav": "is a folder; choose another name",
        "file/deep/out": "file is a file",
    }
    for name, message in refusals.items():
        with pytest.raises(UserError, match=message):
            check_audio_output(tmp_path / name, 1, force=True)
    with pytest.raises(UserError, match=r"a\.wav is one file for 3 samples; give a folder"):
        check_audio_output(tmp_path / "a.wav", 3, force=False)
