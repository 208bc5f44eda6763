"""Data from strangers: bombs, lies in headers, what is no regular file, damaged caches. One line, little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import put, tone

from s4gen.cli.sample_text import read_prompts
from s4gen.data import gzipped
from s4gen.data import open_split as open_images
from s4gen.data.audio import AudioFormat, clips
from s4gen.data.audio import open_split as open_audio
from s4gen.data.audio import reading as audio_reading
from s4gen.data.audio.reading import read_prompt
from s4gen.data.mnist import read_idx
from s4gen.data.pictures import ImageFormat, UnusableError, read_picture
from s4gen.data.sealed import DamagedError, sealed, unsealed
from s4gen.data.text import open_corpus, open_split, prepare_tokenizer
from s4gen.data.text import reading as text_reading
from s4gen.data.text.prepared import tokenizer_path
from s4gen.data.tree import Archive
from s4gen.errors import UserError
from s4gen.files.expected import anything

FORMAT = AudioFormat(8000)
SQUARE = ImageFormat(4, 4, 1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def grown(act: Callable[[], object]) -> float:
    """Return by how many MB the peak of this process's memory grew while something was done."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    act()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


# Sound


def wav(path: Path, rate: int = 8000, channels: int = 1, frames: int = 4000, size: int | None = None) -> Path:
    """Write a wav file whose header says what it is told to say."""
    body = (9000 * np.sin(np.arange(frames * channels) / 5)).astype("<i2").tobytes()
    speed = min(rate * channels * 2, 2**32 - 1)
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, speed, channels * 2, 16)
    data = struct.pack("<4sI", b"data", len(body) if size is None else size) + body
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(header) + len(data), b"WAVE") + header + data)
    return path


@pytest.mark.parametrize("rate", [1, 99, 1_000_001, 10**9])
def test_a_rate_that_no_sound_has_is_refused_before_anything_is_converted(rate: int, tmp_path: Path) -> None:
    path = wav(tmp_path / "odd.wav", rate)
    with pytest.raises(UserError, match=rf"claims {rate} samples per second: expected 100 to 1000000"):
        read_prompt(path, FORMAT)
    put(tmp_path / "set" / "train" / "0.wav", tone(800))
    put(tmp_path / "set" / "test" / "0.wav", tone(800))
    path.rename(tmp_path / "set" / "train" / "1.wav")
    (line, *_) = open_audio(str(tmp_path / "set"), "train", FORMAT).findings.lines()
    assert line.startswith(f"skipped 1 of 2 recordings: train/1.wav claims {rate} samples")


def test_a_prompt_is_refused_as_soon_as_it_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(10**6, np.int16), 8000)  # 3 KB
    monkeypatch.setattr(audio_reading, "LONGEST_PROMPT", 50_000)
    for normalise in ("none", "minmax"):
        with pytest.raises(UserError, match="has more than 50,000 samples at 8000 per second"):
            read_prompt(tmp_path / "long.flac", AudioFormat(8000, normalise=normalise))


def test_blocks_are_small_however_far_the_rates_are_apart(tmp_path: Path) -> None:
    """A hundred samples per second to a million: 40 seconds become 40 million samples, a block at a time."""
    path = wav(tmp_path / "slow.wav", 100)
    recording = audio_reading.Recording("slow.wav", lambda: path)
    sizes = [len(block) for block in audio_reading.read_blocks(recording, 10**6)]
    assert sum(sizes) == 40 * 10**6
    assert max(sizes) < 10 * audio_reading.BLOCK  # the converter itself collects some


def test_lies_about_sizes_and_many_channels_are_read_as_far_as_there_is_sound(tmp_path: Path) -> None:
    assert len(read_prompt(wav(tmp_path / "lie.wav", size=2**32 - 1), FORMAT)[0]) == 4000
    codes, notes = read_prompt(wav(tmp_path / "many.wav", channels=1000, frames=50), FORMAT)
    assert len(codes) == 50 and "1000 channels" in notes[0]


def test_samples_whose_sum_is_infinite_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "loud.wav", np.full((100, 2), 3e38, np.float32), subtype="FLOAT")
    with pytest.raises(UserError, match="samples that are not finite"):
        read_prompt(tmp_path / "loud.wav", FORMAT)


def test_a_set_that_is_small_on_disk_and_large_in_memory_goes_to_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "LARGE", 100_000)
    put(tmp_path / "set" / "0.flac", np.zeros(300_000))
    found = open_audio(str(tmp_path / "set" / "0.flac"), "train", FORMAT)
    assert isinstance(found.codes, np.memmap)
    assert (found.codes == 128).all() and len(found.codes) > 250_000


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_a_member_of_an_archive_is_read_no_further_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4gen.data import tree

    monkeypatch.setattr(tree, "LARGE", 10**6)
    path = archive(tmp_path / "a.zip", **{"small.wav": b"x", "large.wav": bytes(2 * 10**6)})
    assert Archive(path).open("small.wav").read() == b"x"
    with pytest.raises(OSError, match="more than 1,000,000 bytes in an archive"):
        Archive(path).open("large.wav")


def test_names_that_lead_out_of_an_archive_are_left_out(tmp_path: Path) -> None:
    names = ("in.wav", "a/in.wav", "../out.wav", "a/../../out.wav", "/out.wav")
    found = Archive(archive(tmp_path / "a.zip", **dict.fromkeys(names, b"x"))).names()
    assert found == ["in.wav", "a/in.wav"]


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 99), (14, 7)], ids=["encrypted", "method", "checksum"])
def test_a_member_that_cannot_be_unpacked_says_so(offset: int, value: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", **{"a.wav": b"some sound" * 100, "list.txt": b"x"})
    content = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + offset + shift] = value
    path.write_bytes(content)
    with pytest.raises(OSError):
        Archive(path).open("a.wav")
    with pytest.raises(UserError, match=r"list\.txt in .* cannot be read"):
        Archive(path).text("list.txt")


# Pictures


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a PNG of grey pixels whose header claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (9000, 9000), (2**31 - 1, 1), (0, 4)])
def test_a_picture_is_refused_by_the_size_in_its_header(width: int, height: int) -> None:
    def read() -> None:
        with pytest.raises(UnusableError, match=r"pixels|no picture"):
            read_picture(io.BytesIO(png(width, height, bytes(10**6))), SQUARE)

    assert grown(read) < 200


def test_pictures_that_are_programs_are_not_run() -> None:
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) = quit\n%%EOF\n"
    with pytest.raises(UnusableError, match="no picture"):
        read_picture(io.BytesIO(drawing), SQUARE)


# What is no regular file


@pytest.fixture(params=["pipe", "folder", "device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(odd: Path) -> None:
    with pytest.raises(UserError, match="expected a regular file"):
        read_prompt(odd, FORMAT)
    with pytest.raises(UnusableError, match="expected a regular file"):
        read_picture(odd, SQUARE)
    with pytest.raises(UserError, match="expected a regular file"):
        read_idx(odd, (1,), "copy it")
    with pytest.raises(UserError, match="expected a regular file"):
        Archive(odd)
    with pytest.raises(
        UserError, match=r"expected a regular file|is empty"
    ):  # a pipe may be a list, but nobody writes to this one
        read_prompts(odd)


# Text


@pytest.mark.parametrize("name", ["one.txt.gz", "one.jsonl.gz"])
def test_a_line_without_end_is_read_no_further_than_allowed(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gzipped, "BOMB_SIZE", 10**7)
    with gzip.open(tmp_path / name, "wb") as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"a" * 10**6)

    def read() -> None:
        with pytest.raises(UserError, match=r"it unpacks to more than 1[0-9],[0-9]+,[0-9]+ bytes"):
            open_split(str(tmp_path / name), "train", prepare_tokenizer(str(tmp_path / name), "bytes"), progress=False)

    assert grown(read) < 100


@pytest.mark.timeout(20)
def test_a_gzipped_file_without_end_is_refused_at_once(tmp_path: Path) -> None:
    """Zeros behind the end are allowed, but Python's reader looks at each of them: a terabyte would take weeks."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"some text\n") + bytes(1000))
    assert text_reading.unpacked_size(path) == 10
    os.truncate(path, 1 << 40)
    with pytest.raises(UserError, match="it ends in zeros"):
        text_reading.unpacked_size(path)
    with pytest.raises(UserError, match="it ends in zeros"):
        read_idx(path, (10,), "copy it")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("kind", "message"), [("bpe", "looks like a binary file"), ("bytes", r"the tokens would take .* GB are left")]
)
def test_a_terabyte_of_holes_is_refused_at_once(kind: str, message: str, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text\n" * 100)
    os.truncate(path, 1 << 42)
    with pytest.raises(UserError, match=message):
        tokenizer = prepare_tokenizer(str(path), kind, 300 if kind == "bpe" else 0, progress=False)
        open_split(str(path), "train", tokenizer, progress=False)


def test_a_record_of_any_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reading, "LONGEST_RECORD", 1000)
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "a" * 900}) + "\n" + json.dumps({"text": "a" * 1000}))
    blocks = open_corpus(str(tmp_path), "train").blocks()
    assert len(next(blocks).data) == 900
    with pytest.raises(UserError, match="the record at byte 913 has more than 1,000 bytes; cut"):
        next(blocks)


# Caches


def damages(content: bytes) -> list[bytes]:
    """A bit, the end, the beginning, zeros, nothing, and more than there was."""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    return [bytes(flipped), content[:-1], content[1:], bytes(len(content)), b"", content + b"\0"]


def test_damaged_tokens_and_their_facts_are_made_again_and_a_line_says_so(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("the cat sat on the mat\n" * 50)

    def tokens() -> tuple[list[int], int, int]:
        found = open_split(str(text), "train", prepare_tokenizer(str(text), "word", progress=False), progress=False)
        return found.tokens.tolist(), found.words, found.text_bytes

    good = tokens()
    folder = next(cache.glob("tokens/a-txt-train-*"))
    capsys.readouterr()
    for name in ("tokens", "meta.json"):
        content = (folder / name).read_bytes()
        for damaged in damages(content):
            (folder / name).write_bytes(damaged)
            assert tokens() == good
            (line,) = capsys.readouterr().err.splitlines()
            assert f"the tokens in {folder} are damaged ({name}: " in line and line.endswith("they are made again")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"words": meta["words"] + 1}))  # as an editor would
    assert tokens() == good
    assert "checksum" in capsys.readouterr().err
    assert tokens() == good
    assert capsys.readouterr().err == ""


def test_a_damaged_tokenizer_in_the_cache_is_made_again(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("the cat sat on the mat\n" * 50)
    good = prepare_tokenizer(str(text), "word", progress=False)
    path = tokenizer_path(open_corpus(str(text), "train"), "word", 0)
    changed = path.read_text().replace("cat", "dog")
    for damaged in (changed.encode(), *damages(path.read_bytes())):
        path.write_bytes(damaged)
        assert prepare_tokenizer(str(text), "word", progress=False).fingerprint == good.fingerprint
        assert "is damaged" in capsys.readouterr().err
    assert prepare_tokenizer(str(text), "word", progress=False).fingerprint == good.fingerprint
    assert capsys.readouterr().err == ""


def test_damaged_pixels_and_codes_are_made_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.setattr(clips, "LARGE", 0)
    for i in range(4):
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    put(tmp_path / "sound" / "0.wav", tone(800))
    readers: dict[str, Callable[[], bytes]] = {
        "images": lambda: open_images(f"images:{tmp_path}", "train", SQUARE).images.tobytes(),
        "audio": lambda: open_audio(str(tmp_path / "sound" / "0.wav"), "train", FORMAT).codes.tobytes(),
    }
    for name, read in readers.items():
        good = read()
        for file in [file for file in cache.glob(f"{name}/*/*") if file.is_file()]:
            for damaged in damages(file.read_bytes()):
                capsys.readouterr()
                file.write_bytes(damaged)
                assert read() == good
                assert "are damaged" in capsys.readouterr().err
        assert read() == good
        assert capsys.readouterr().err == ""


def test_facts_are_sealed(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(sealed({"n": 1, "name": "a\udcff"}))
    assert unsealed(path, anything) == {"n": 1, "name": "a\udcff"}
    for text in ("[]", "{}", '{"n": 1}', '{"n": 1, "sha256": null}', "[" * 10_000, "\ud800"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(DamagedError):
            unsealed(path, anything)
    with pytest.raises(FileNotFoundError):
        unsealed(tmp_path / "none", anything)


def test_labels_have_bounds(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    sound = io.BytesIO()
    soundfile.write(sound, tone(80), 8000, format="WAV")
    rows = [{"audio": {"bytes": sound.getvalue(), "path": "a.wav"}, "label": 2**62}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match="a label 4611686018427387904: expected at most 65535"):
        open_audio(str(tmp_path), "train", FORMAT)
