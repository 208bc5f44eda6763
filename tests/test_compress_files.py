"""`s4gen compress` and `decompress`: files come back as they were, and what cannot is refused in one line."""

from __future__ import annotations

import json
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from engines import ENGINES_HERE
from PIL import Image
from refusals import assert_refused_in_one_line
from tiny_files import (
    WIKI,
    image_checkpoint,
    noise,
    sound_checkpoint,
    text_checkpoint,
    wav_bytes,
    write_images,
)

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.compress import coding, compressor
from s4gen.compress.container import Container, pack, unpack
from s4gen.compress.images import ORIENTATION
from s4gen.compress.sound import flac
from s4gen.data.images import read_image
from s4gen.sampling.engines import native

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def there_and_back(files: list[Path], *options: str, model: str = "model") -> list[Path]:
    """Compress and decompress; return where the files came back, in their order."""
    assert main(["compress", model, *map(str, files), "-o", "all.s4z", *options]) == 0
    assert main(["decompress", model, "all.s4z", "-o", "back"]) == 0
    return [Path("back", path.name) for path in files]


# What comes back


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_images_come_back_with_the_same_pixels(engine: str) -> None:
    layout = image_checkpoint(Path("model"), "pixels, channels")
    files = write_images(layout, Path("in"), 5)
    for path, back in zip(files, there_and_back(files, "--engine", engine, "--batch", "3"), strict=True):
        assert back.read_bytes() == path.read_bytes()


def test_images_of_other_formats_come_back_as_png() -> None:
    layout = image_checkpoint(Path("model"))
    (png,) = write_images(layout, Path("in"), 1)
    for name, settings in (("a.bmp", {}), ("b.webp", {"lossless": True}), ("c", {"format": "TIFF"})):
        with Image.open(png) as image:
            image.save(Path("in", name), **settings)  # type: ignore[arg-type]
    files = [Path("in", name) for name in ("a.bmp", "b.webp", "c")]
    there_and_back(files)
    assert sorted(path.name for path in Path("back").iterdir()) == ["a.png", "b.png", "c.png"]
    for path in Path("back").iterdir():
        assert (read_image(path, layout) == read_image(png, layout)).all()


TEXTS = {
    "bytes": [bytes(range(256)), b"\xff\r\n", "ä".encode()],
    "bpe": [WIKI.encode(), "\ufeffAny text: \u00a0\r\n\t\x00 <eos> \U0001f40d".encode(), b"\n", b" "],
    "word": [
        WIKI.encode(),
        b"Robert",
        b" Robert \n",
        "<eos> no\u00a0such\r\n\nwords<unk>  \t ".encode(),
        b"\n\n a ,  ",
    ],
    "numbers": [b" 3 17 0", b"3\n17  0 \n", b"19"],
}


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_come_back_byte_for_byte(kind: str, engine: str) -> None:
    text_checkpoint(Path("model"), kind)
    Path("in").mkdir()
    files = [Path("in", f"{number}.txt") for number in range(len(TEXTS[kind]))]
    for path, content in zip(files, TEXTS[kind], strict=True):
        path.write_bytes(content)
    for back, content in zip(there_and_back(files, "--engine", engine), TEXTS[kind], strict=True):
        assert back.read_bytes() == content


def test_a_text_in_the_form_of_the_vocabulary_needs_nothing_beside_its_tokens(capsys: Capture) -> None:
    text_checkpoint(Path("model"), "word")
    Path("wiki.txt").write_text(WIKI)
    Path("other.txt").write_text("Robert was\n")
    assert main(["compress", "model", "wiki.txt", "other.txt", "-o", "all.s4z"]) == 0
    wiki, other = unpack(Path("all.s4z").read_bytes()).entries
    assert wiki.extra == b"" and other.extra
    said = capsys.readouterr().err
    assert "other.txt: 3 of 3 words are unknown to the model, or spaced otherwise" in said
    assert "wiki.txt" not in said


SOUNDS = {
    "16.wav": wav_bytes(noise(90)),
    "8.wav": wav_bytes(noise(40, 8), 8),
    "24.wav": wav_bytes(noise(50, 24), 24),
    "one.wav": wav_bytes([-5]),
    "named otherwise": wav_bytes(noise(9)),
}


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("normalise", ["none", "peak", "minmax"])
def test_wav_files_come_back_byte_for_byte(normalise: str, engine: str) -> None:
    sound_checkpoint(Path("model"), normalise=normalise)
    files = [Path(name) for name in SOUNDS]
    for path in files:
        path.write_bytes(SOUNDS[path.name])
    for back in there_and_back(files, "--engine", engine, "--verify"):
        assert back.read_bytes() == SOUNDS[back.name]


def test_what_stands_around_the_samples_of_a_wav_file_comes_back_too() -> None:
    sound_checkpoint(Path("model"), classes=("a", "b"))
    usual = wav_bytes(noise(30))
    tag = b"LIST" + struct.pack("<I", 12) + b"INFOICMTabcd"
    longer = usual[:12] + tag + usual[12:] + tag
    contents = {
        "tagged.wav": longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:],
        "wrong size.wav": usual[:4] + struct.pack("<I", 999) + usual[8:],
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
    for back in there_and_back([Path(name) for name in contents]):
        assert back.read_bytes() == contents[back.name]


@pytest.mark.parametrize("depth", [8, 16, 24])
def test_flac_files_come_back_sample_for_sample(depth: int) -> None:
    sound_checkpoint(Path("model"))
    Path("a.flac").write_bytes(flac(np.array(noise(60, depth)), 400, depth))
    (back,) = there_and_back([Path("a.flac")])
    for path in (Path("a.flac"), back):
        found, rate = soundfile.read(path, dtype="int32")
        assert rate == 400 and (found >> (32 - depth)).tolist() == noise(60, depth)
    assert soundfile.info("a.flac").subtype == soundfile.info(str(back)).subtype


def test_what_s4gen_has_drawn_is_kept_as_codes_alone() -> None:
    sound_checkpoint(Path("model"))
    assert main(["sample", "model", "--seconds", "0.2", "-o", "drawn.wav"]) == 0
    (back,) = there_and_back([Path("drawn.wav")])
    assert back.read_bytes() == Path("drawn.wav").read_bytes()
    (entry,) = unpack(Path("all.s4z").read_bytes()).entries
    assert 8 * len(entry.blocks[0].coded) < 7 * entry.length + 40  # codes of 5 bits, and samples of 16


def test_with_lossy_any_recording_is_kept_as_the_model_hears_it() -> None:
    sound_checkpoint(Path("model"))
    Path("stereo.wav").write_bytes(wav_bytes(noise(200), rate=800, channels=2))
    soundfile.write("b.ogg", np.sin(np.arange(400) / 9), 400)
    assert main(["compress", "model", "stereo.wav", "b.ogg", "-o", "all.s4z", "--lossy"]) == 0
    assert main(["decompress", "model", "all.s4z", "-o", "back"]) == 0
    found = {path.name: soundfile.info(str(path)) for path in Path("back").iterdir()}
    assert set(found) == {"stereo.wav", "b.wav"}
    assert all((info.samplerate, info.channels) == (400, 1) for info in found.values())
    assert found["stereo.wav"].frames == 50


def test_a_name_that_is_no_unicode_comes_back() -> None:
    text_checkpoint(Path("model"), "bytes")
    name = "\udcff \u00e4\n"
    Path(name).write_bytes(b"abc")
    there_and_back([Path(name)])
    assert [path.name for path in Path("back").iterdir()] == [name]


def test_the_longest_names_come_back_or_are_refused_at_once(images: list[Path], capsys: Capture) -> None:
    text_checkpoint(Path("words"), "bytes")
    longest = Path("z" * 251 + ".txt")
    longest.write_bytes(b"abc")
    assert main(["compress", "words", str(longest), "-o", "text.s4z"]) == 0
    assert main(["decompress", "words", "text.s4z", "-o", "texts"]) == 0
    assert [path.name for path in Path("texts").iterdir()] == [longest.name]
    capsys.readouterr()
    picture = images[0].rename("y" * 255)  # which would come back with four more bytes
    message = "would come back under a name that not every folder can hold"
    assert_refused_in_one_line(main, ["compress", "model", str(picture), "-o", "o.s4z"], message, capsys)


def test_a_file_of_another_version_is_not_called_damaged(images: list[Path], capsys: Capture) -> None:
    assert main(["compress", "model", str(images[0]), "-o", "o.s4z"]) == 0
    content = Path("o.s4z").read_bytes()
    Path("o.s4z").write_bytes(content[:3] + b"\x09" + content[4:])
    capsys.readouterr()
    message = "o.s4z: it has format version 9, and this s4gen reads 2; decompress it with the s4gen that wrote it"
    assert_refused_in_one_line(main, ["decompress", "model", "o.s4z", "-o", "back"], message, capsys)


def test_the_result_as_json_adds_up(capsys: Capture) -> None:
    layout = image_checkpoint(Path("model"))
    files = write_images(layout, Path("in"), 2)
    assert main(["compress", "model", *map(str, files), "-o", "new/all.s4z", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["compressed_bytes"] == Path("new/all.s4z").stat().st_size
    assert said["bytes"] == sum(file["bytes"] for file in said["files"]) == 2 * layout.length
    assert [file["name"] for file in said["files"]] == ["00000.png", "00001.png"]
    assert main(["decompress", "model", "new/all.s4z", "-o", "back", "--json"]) == 0
    assert [file["path"] for file in json.loads(capsys.readouterr().out)["files"]] == [
        "back/00000.png",
        "back/00001.png",
    ]


def test_a_file_costs_at_most_24_bytes_more_than_its_bits() -> None:
    """The header of the container is 8 bytes, 3 and 3 for model and engine, and a few numbers."""
    layout = image_checkpoint(Path("model"))
    files = write_images(layout, Path("in"), 8)
    there_and_back(files)
    tokens = torch.stack([torch.from_numpy(read_image(path, layout).astype(np.int64).ravel()) for path in files])
    with torch.no_grad():
        bits = -float(load_checkpoint("model").model.log_prob(tokens).double().sum()) / np.log(2)
    assert Path("all.s4z").stat().st_size <= 1.01 * bits / 8 + 24 * len(files)


# What is refused


@pytest.fixture
def images() -> list[Path]:
    """Three images that fit the checkpoint `model`, which does not fit `small.png` and `other`."""
    layout = image_checkpoint(Path("model"))
    image_checkpoint(Path("other"), "s4")
    Image.new("L", (3, 3)).save("small.png")
    return write_images(layout, Path("in"), 3)


def test_files_that_do_not_fit_are_refused(images: list[Path], capsys: Capture) -> None:
    Path("empty.png").touch()
    Path("folder").mkdir()
    Path("text.txt").write_text("Robert")
    good = str(images[0])
    for files, message in (
        (["small.png"], "small.png is an image of 3 x 3 pixels, mode L: expected 5 x 6 pixels, grey"),
        (["empty.png"], "empty.png cannot be read as an image"),
        (["text.txt"], "text.txt cannot be read as an image"),
        (["folder"], "folder cannot be read as an image"),
        (["nowhere.png"], "nowhere.png cannot be read as an image"),
        ([good, "in/../" + good], "would both come back as 00000.png; rename one of them"),
        ([], "the following arguments are required: FILE"),
    ):
        assert_refused_in_one_line(main, ["compress", "model", *files, "-o", "o.s4z"], message, capsys)
    assert not Path("o.s4z").exists()
    assert_refused_in_one_line(
        main, ["compress", "model", good, "-o", "-"], "is not written to standard output", capsys
    )
    assert not Path("-").exists()


def test_more_values_than_a_compressed_file_holds_are_refused(
    images: list[Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressor, "MOST_VALUES", 60)
    message = "these are 90 values, and a compressed file holds at most 60: compress fewer at once"
    assert_refused_in_one_line(main, ["compress", "model", *map(str, images), "-o", "o.s4z"], message, capsys)
    assert main(["compress", "model", *map(str, images[:2]), "-o", "o.s4z"]) == 0
    with Path("holes.s4z").open("wb") as file:
        file.write(Path("o.s4z").read_bytes())
        file.truncate(1 << 40)
    capsys.readouterr()
    message = "holes.s4z has more than 1,073,741,824 bytes"
    assert_refused_in_one_line(main, ["decompress", "model", "holes.s4z", "-o", "back"], message, capsys)


def test_pictures_that_are_more_than_their_pixels_need_lossy(images: list[Path], capsys: Capture) -> None:
    with Image.open(images[0]) as first, Image.open(images[1]) as second:
        first.save("moving.png", save_all=True, append_images=[second])
        turned = Image.Exif()
        turned[ORIENTATION] = 6
        first.save("turned.png", exif=turned)
    for name, message in (("moving.png", "holds 2 pictures"), ("turned.png", "is to be turned before it is shown")):
        assert_refused_in_one_line(main, ["compress", "model", name, "-o", f"{name}.s4z"], message, capsys)
        assert main(["compress", "model", name, "-o", f"{name}.s4z", "--lossy"]) == 0
        capsys.readouterr()


def test_texts_that_cannot_be_said_are_refused(capsys: Capture) -> None:
    Path("binary").write_bytes(b"ab\xff")
    Path("empty.txt").touch()
    Path("words.txt").write_text("no numbers")
    Path("spaces.txt").write_text(" \n")
    text_checkpoint(Path("bpe"), "bpe")
    text_checkpoint(Path("numbers"), "numbers")
    for model, name, message in (
        ("bpe", "binary", "binary is no UTF-8 at byte 2"),
        ("bpe", "empty.txt", "empty.txt is empty"),
        ("bpe", "nowhere.txt", "nowhere.txt: No such file"),
        ("bpe", ".", "expected a regular file"),
        ("numbers", "words.txt", "words.txt: 'no' is no token of this model"),
        ("numbers", "spaces.txt", "spaces.txt cannot be said in the tokens of this model"),
    ):
        assert_refused_in_one_line(main, ["compress", model, name, "-o", "o.s4z"], message, capsys)
    said = "--lossy is for"
    assert_refused_in_one_line(main, ["compress", "bpe", "binary", "-o", "o.s4z", "--lossy"], said, capsys)


def test_recordings_that_would_lose_something_are_refused(capsys: Capture) -> None:
    sound_checkpoint(Path("model"))
    Path("rate.wav").write_bytes(wav_bytes(noise(9), rate=8000))
    Path("stereo.wav").write_bytes(wav_bytes(noise(10), channels=2))
    Path("none.wav").write_bytes(wav_bytes([]))
    Path("cut.wav").write_bytes(wav_bytes(noise(90))[:60])
    soundfile.write("float.wav", np.zeros(9), 400, "FLOAT")
    soundfile.write("a.ogg", np.zeros(400), 400)
    Path("text.wav").write_text("no sound")
    for name, message in (
        ("rate.wav", "rate.wav is WAV PCM_16, 1 channels, 8000 samples per second: expected a wav or flac file, mono"),
        ("stereo.wav", "2 channels"),
        ("none.wav", "none.wav has no samples"),
        ("float.wav", "FLOAT"),
        ("a.ogg", "OGG VORBIS"),
        ("text.wav", "text.wav cannot be read as sound"),
    ):
        assert_refused_in_one_line(main, ["compress", "model", name, "-o", "o.s4z"], message, capsys)
    (back,) = there_and_back([Path("cut.wav")])  # libsndfile reads what is there, and so it comes back
    assert back.read_bytes() == Path("cut.wav").read_bytes()


def test_what_is_there_is_not_written_over(images: list[Path], capsys: Capture) -> None:
    compressing = ["compress", "model", *map(str, images), "-o", "o.s4z"]
    assert main(compressing) == 0
    capsys.readouterr()
    assert_refused_in_one_line(main, compressing, "o.s4z exists; choose another name", capsys)
    assert main([*compressing, "--force"]) == 0
    Path("back").mkdir()
    Path("back/00001.png").write_text("mine")
    capsys.readouterr()
    decompressing = ["decompress", "model", "o.s4z", "-o", "back"]
    assert_refused_in_one_line(main, decompressing, "back/00001.png exists; choose another name", capsys)
    assert [path.name for path in Path("back").iterdir()] == ["00001.png"]
    assert main([*decompressing, "--force"]) == 0
    assert Path("back/00001.png").read_bytes() == images[1].read_bytes()
    capsys.readouterr()
    assert_refused_in_one_line(main, [*decompressing[:-1], "o.s4z"], "o.s4z is a file, and files are to be", capsys)
    itself = ["compress", "model", str(images[0]), "-o", str(images[0]), "--force"]
    assert_refused_in_one_line(main, itself, "would be replaced by its compressed form", capsys)
    assert_refused_in_one_line(main, [*compressing[:-1], "in"], "in is a folder", capsys)


def test_another_model_or_another_way_of_rounding_is_refused(images: list[Path], capsys: Capture) -> None:
    assert main(["compress", "model", *map(str, images), "-o", "o.s4z", "--engine", "eager"]) == 0
    made = unpack(Path("o.s4z").read_bytes())
    text_checkpoint(Path("text"), "bytes")

    def refused(model: str, container: Container, message: str) -> None:
        Path("changed.s4z").write_bytes(pack(container))
        assert_refused_in_one_line(main, ["decompress", model, "changed.s4z", "-o", "back"], message, capsys)
        assert not Path("back").exists()

    capsys.readouterr()
    refused("other", made, "changed.s4z: it was compressed with another model than other")
    refused("text", made, "it was compressed with another model than text")
    refused("model", replace(made, signature=bytes(3)), "the eager engine rounds differently here")
    refused("model", replace(made, engine="compiled"), "the engine 'compiled', which this version does not have")
    first = replace(made.entries[0], blocks=(replace(made.entries[0].blocks[0], checksum=1),))
    refused("model", replace(made, entries=(first, *made.entries[1:])), "what is decoded is not what was compressed")
    refused("model", replace(made, length=0), "it does not fit the model that it names")
    refused("model", replace(made, labelled=True), "it does not fit the model that it names")
    extra = replace(made.entries[0], extra=b"x")
    refused("model", replace(made, entries=(extra,)), "it does not fit the model that it names")


@pytest.mark.skipif("native" not in ENGINES_HERE, reason="needs a library of the native engine")
def test_the_target_of_a_file_is_the_one_that_it_is_read_with(
    images: list[Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compress", "model", *map(str, images), "-o", "o.s4z", "--engine", "native"]) == 0
    made = unpack(Path("o.s4z").read_bytes())
    asked: list[str | None] = []
    library = native.library
    monkeypatch.setattr(native, "library", lambda target: asked.append(target) or library(target))
    assert main(["decompress", "model", "o.s4z", "-o", "back"]) == 0
    assert asked == [made.target]
    Path("changed.s4z").write_bytes(pack(replace(made, target="z80")))
    capsys.readouterr()
    arguments = ["decompress", "model", "changed.s4z", "-o", "again"]
    assert_refused_in_one_line(main, arguments, "changed.s4z: 'z80' is no target", capsys)


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_compressed_file_that_was_cut_or_changed_anywhere_is_refused(
    images: list[Path], capsys: Capture, every: int
) -> None:
    """Every bit of a container is tried in test_compress.py; this is the whole command."""
    assert main(["compress", "model", *map(str, images), "-o", "o.s4z"]) == 0
    content, rng = Path("o.s4z").read_bytes(), random.Random(0)
    capsys.readouterr()

    def refused(changed: bytes) -> None:
        Path("changed.s4z").write_bytes(changed)
        arguments = ["decompress", "model", "changed.s4z", "-o", "back"]
        other_version = changed[:3] == content[:3] and len(changed) >= 8 and changed[3] != content[3]
        message = "it has format version" if other_version else "is damaged or no file of s4gen compress"
        assert_refused_in_one_line(main, arguments, message, capsys)

    for size in range(0, len(content), every):
        refused(content[:size])
    for at in range(0, len(content), every):
        refused(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
    for _ in range(260 // every):
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        if changed != content:
            refused(bytes(changed))
    for changed in (b"", b"PK\x03\x04", content * 2, images[0].read_bytes()):
        refused(changed)
    assert not Path("back").exists()


@pytest.mark.parametrize("tried", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_headers_with_the_right_checksum_and_wrong_content_are_refused(
    images: list[Path], capsys: Capture, tried: int
) -> None:
    """Somebody may have made them on purpose: they are refused, or decode to files whose checksum is right."""
    assert main(["compress", "model", *map(str, images), "-o", "o.s4z", "--engine", "eager"]) == 0
    content, rng = Path("o.s4z").read_bytes(), random.Random(1)
    header = len(content) - sum(len(block.coded) for entry in unpack(content).entries for block in entry.blocks)
    for _ in range(tried):
        behind = bytearray(content[8:])
        behind[rng.randrange(6, header - 8)] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
        Path("changed.s4z").write_bytes(content[:4] + struct.pack("<I", zlib.crc32(behind)) + bytes(behind))
        capsys.readouterr()
        code = main(["decompress", "model", "changed.s4z", "-o", "back", "--force"])
        assert code in (0, 2)
        assert capsys.readouterr().err.count("\n") == (1 if code else 0)
    assert {path.parent for path in Path().rglob("*.png")} <= {Path("in"), Path("back"), Path()}


@pytest.mark.parametrize("tried", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_extra_bytes_of_texts_and_sound_that_nobody_wrote_are_refused(capsys: Capture, tried: int) -> None:
    text_checkpoint(Path("word"), "word")
    sound_checkpoint(Path("sound"))
    Path("a.txt").write_text("Robert was")
    Path("a.wav").write_bytes(wav_bytes(noise(9)))
    rng = random.Random(2)
    for model, name in (("word", "a.txt"), ("sound", "a.wav")):
        assert main(["compress", model, name, "-o", "o.s4z", "--engine", "eager", "--force"]) == 0
        made = unpack(Path("o.s4z").read_bytes())
        bombs = [zlib.compress(bytes(1 << 20)), b"\x07\x10", b"\x00\x11\x00\x00", b"\xff" * 30]
        for extra in [*bombs, *(rng.randbytes(rng.randrange(1, 12)) for _ in range(tried))]:
            Path("changed.s4z").write_bytes(pack(replace(made, entries=(replace(made.entries[0], extra=extra),))))
            capsys.readouterr()
            code = main(["decompress", model, "changed.s4z", "-o", "back", "--force"])
            assert code in (0, 2), extra
            assert capsys.readouterr().err.count("\n") == (1 if code else 0)


def test_ctrl_c_leaves_nothing(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compressing = ["compress", "model", *map(str, images), "-o", "o.s4z"]
    assert main(compressing) == 0
    stepped = coding.frequencies

    def interrupted(logits: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return stepped(logits)

    calls: list[int] = []
    monkeypatch.setattr(coding, "frequencies", interrupted)
    assert main([*compressing[:-1], "new.s4z"]) == 130
    calls.clear()
    assert main(["decompress", "model", "o.s4z", "-o", "back"]) == 130
    assert sorted(path.name for path in Path().iterdir()) == ["in", "model", "o.s4z", "other", "small.png"]


def test_verify_finds_what_does_not_come_back(
    images: list[Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an engine computes other bits each time."""
    honest = compressor.decompress
    monkeypatch.setattr(compressor, "decompress", lambda *given: honest(*given)[::-1])
    arguments = ["compress", "model", *map(str, images), "-o", "o.s4z", "--verify"]
    assert_refused_in_one_line(main, arguments, "has not come back as it was, so nothing was written", capsys)
    assert not Path("o.s4z").exists()
