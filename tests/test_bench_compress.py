"""`s4gen bench compress`: every byte is counted, every codec is lossless, and the files are those of the test split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from refusals import assert_refused_in_one_line
from tiny import noisy_model
from tiny_audio import sounding_model
from tiny_files import WIKI, image_checkpoint, noise, sound_checkpoint, text_checkpoint, wav_bytes, write_images

from s4gen.bench import compression
from s4gen.bench.codecs import Codec, codecs_for, has_imagecodecs
from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.cli.bench_compress import files_of_test
from s4gen.config import ImageLayout
from s4gen.data.images import read_image
from s4gen.errors import UserError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result_of(files: list[Path], capsys: Capture) -> dict[str, float]:
    """Sizes by way."""
    assert main(["compress", "model", *map(str, files), "-o", "all.s4z"]) == 0
    capsys.readouterr()
    assert main(["bench", "compress", "model", *map(str, files), "--json"]) == 0
    found = {row["way"].strip(): row["size"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert found["s4gen, the whole file"] == Path("all.s4z").stat().st_size
    bits = found.get("with the rest of each sample", found["the model's own bits"])
    assert 0.99 * bits < found["of it what is coded"] < 1.01 * bits + 5 * len(files)
    return found


def test_images_stand_beside_the_codecs_of_images(capsys: Capture) -> None:
    layout = image_checkpoint(Path("model"))
    found = result_of(write_images(layout, Path("in"), 3), capsys)
    assert {"PNG", "WebP lossless", "xz -9e", "xz -9e, all in one"} <= set(found)
    assert ("JPEG XL lossless" in found) == ("JPEG-LS" in found) == ("zstd -22" in found) == has_imagecodecs()


def test_sound_stands_beside_flac(capsys: Capture) -> None:
    sound_checkpoint(Path("model"), classes=("a", "b"))
    Path("a.wav").write_bytes(wav_bytes(noise(400)))
    found = result_of([Path("a.wav")], capsys)
    assert "FLAC" in found and "PNG" not in found
    assert "with the rest of each sample" in found


def test_a_text_stands_beside_codecs_of_bytes_in_a_table(capsys: Capture) -> None:
    text_checkpoint(Path("model"), "word")
    Path("a.txt").write_text(WIKI)
    assert "FLAC" not in result_of([Path("a.txt")], capsys)
    assert main(["bench", "compress", "model", "a.txt"]) == 0
    table = capsys.readouterr().out
    assert "1 files of" not in table
    assert "bits/byte" in table and "xz -9e" in table and "all in one" not in table


def test_without_imagecodecs_a_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for module in ("codecs", "compression"):
        monkeypatch.setattr(f"s4gen.bench.{module}.has_imagecodecs", lambda: False)
    text_checkpoint(Path("model"), "bytes")
    Path("a.txt").write_text("abc")
    assert main(["bench", "compress", "model", "a.txt"]) == 0
    assert "without JPEG-LS, JPEG XL, zstd: pip install 's4gen[codecs]'" in capsys.readouterr().out


@pytest.mark.parametrize("channels", [1, 3])
def test_the_codecs_of_images_lose_nothing_and_a_lossy_one_is_found_out(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    for codec in codecs_for("image"):
        assert compression.measured(codec, codec.name, [pixels, pixels]).size > 0
    lossy = Codec("lossy", lambda content: bytes(4), lambda packed: np.zeros(4, np.uint8))
    with pytest.raises(UserError, match="does not come back by lossy"):
        compression.measured(lossy, "lossy", [pixels])


def test_without_files_those_of_the_test_split_are_taken() -> None:
    layout = ImageLayout(height=28, width=28, channels=1)
    save_checkpoint("images", noisy_model("s4d", layout), recipe=None, metrics={}, card="")
    save_checkpoint("sound", sounding_model("s4d", ()), recipe=None, metrics={}, card="")
    text_checkpoint(Path("text"), "bytes")
    images = files_of_test(load_checkpoint("images"), "mnist-mini", 2, Path("in"))
    assert [read_image(path, layout).any() for path in images] == [True, True]
    sounds = files_of_test(load_checkpoint("sound"), "fsdd-mini", 3, Path("in"))
    assert len({path.name[0] for path in sounds}) == 3
    assert all(soundfile.info(str(path)).subtype == "PCM_16" for path in sounds)
    (page,) = files_of_test(load_checkpoint("text"), "wikitext-mini", 1, Path("in"))
    assert page.read_bytes().count(b"\n = ") >= 1
    with pytest.raises(UserError, match="no published set of recordings"):
        files_of_test(load_checkpoint("sound"), "audio:folder", 3, Path("in"))


def test_files_and_a_data_set_exclude_each_other(capsys: Capture) -> None:
    text_checkpoint(Path("model"), "bytes")
    arguments = ["bench", "compress", "model", "a.txt", "--dataset", "wikitext-mini"]
    assert_refused_in_one_line(main, arguments, "two ways to say what is compressed", capsys)
    assert_refused_in_one_line(main, ["bench", "compress", "model"], "names a data set", capsys)
    assert_refused_in_one_line(main, ["bench", "--json", "compress"], "compress comes first", capsys)
