"""Whatever people bring: links, names of splits, permissions, odd names, formats, byte order marks, few recordings."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nobody import as_nobody

from s4gen.config import kind_of
from s4gen.config.names import SOUND_SUFFIXES, SPLITS, UNREADABLE_SOUND
from s4gen.data import open_split as open_images
from s4gen.data.audio import AudioFormat, AudioSet
from s4gen.data.audio import open_split as open_audio
from s4gen.data.audio.reading import read_prompt
from s4gen.data.audio.write import write_audio
from s4gen.data.splits import are_splits, split_of, suspicious
from s4gen.data.text import Corpus, open_corpus, prepare_tokenizer
from s4gen.data.text import open_split as open_text
from s4gen.data.tree import names_below, natural
from s4gen.errors import UserError

FORMAT = AudioFormat(8000)


def sound(path: Path, samples: int = 800) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.sin(np.arange(samples) / 5), 8000)
    return path


def picture(path: Path, shade: int = 100) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def load(folder: Path, split: str = "train") -> AudioSet:
    return open_audio(str(folder), split, FORMAT)


def content(corpus: Corpus) -> bytes:
    return b"".join(block.data for block in corpus.blocks())


# Links (row 3)


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    """Once for each place that they are at, but never into a folder that they are in."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/1", "a/b/2", "elsewhere/3"):
        (tmp_path / name).write_text("")
    for link, target in (("a/out", "elsewhere"), ("a/again", "elsewhere"), ("a/b/up", "a"), ("a/self", "a/self")):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert sorted(names_below(tmp_path / "a")) == ["1", "again/3", "b/2", "out/3", "self"]


def test_linked_folders_of_sound_and_images_are_classes_like_others(tmp_path: Path) -> None:
    for i in range(20):
        sound(tmp_path / "far" / "dog" / f"{i}.wav")
        sound(tmp_path / "near" / "cat" / f"{i}.wav")
        picture(tmp_path / "away" / "dog" / f"{i}.png")
        picture(tmp_path / "close" / "cat" / f"{i}.png", 50)
    (tmp_path / "near" / "dog").symlink_to(tmp_path / "far" / "dog")
    (tmp_path / "close" / "dog").symlink_to(tmp_path / "away" / "dog")
    assert load(tmp_path / "near").classes == ("cat", "dog")
    images = open_images(f"images:{tmp_path / 'close'}", "train")
    assert (images.classes, len(images)) == (("cat", "dog"), 36)


def test_a_link_to_the_whole_folder_or_file_of_text_is_followed(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text("one two\n")
    (tmp_path / "link").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "valid.txt").symlink_to(tmp_path / "texts" / "train.txt")
    for split in ("train", "validation"):
        assert content(open_corpus(f"{tmp_path}/link", split)) == b"one two\n"


def test_a_link_that_leads_nowhere_is_skipped_by_name(tmp_path: Path) -> None:
    for i in range(20):
        sound(tmp_path / f"{i}.wav")
        picture(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "0a.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "pictures" / "0a.png").symlink_to(tmp_path / "gone.png")
    assert load(tmp_path).findings.lines()[0].startswith("skipped 1 of 18 recordings: 0a.wav cannot be read (")
    (line,) = open_images(f"images:{tmp_path / 'pictures'}", "train").notes
    assert line == "skipped 1 of 21 images: 0a.png cannot be read (No such file or directory)"


# Names of splits (row 8)


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "VAL", "Test"), ("TRAIN", "dev", "test")])
def test_splits_have_the_names_that_people_give_them(names: tuple[str, ...], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        for label in ("cat", "dog"):
            sound(tmp_path / "sound" / name / label / f"{number}.wav")
            picture(tmp_path / "images" / name / label / f"{number}.png", 10 * number)
        text = tmp_path / "text" / f"{name}.TXT"
        text.parent.mkdir(exist_ok=True)
        text.write_text(f"{number}\n")
    for number, split in enumerate(SPLITS):
        audio = load(tmp_path / "sound", split)
        assert audio.names == (f"{names[number]}/cat/{number}.wav", f"{names[number]}/dog/{number}.wav")
        assert audio.classes == ("cat", "dog")
        images = open_images(f"images:{tmp_path / 'images'}", split)
        assert (images.images == 10 * number).all()
        assert (len(images), images.classes) == (2, ("cat", "dog"))
        assert content(open_corpus(f"{tmp_path}/text", split)) == b"%d\n" % number


def test_what_is_beside_the_folders_of_splits_is_counted(tmp_path: Path) -> None:
    for name in ("train/a", "test/b", "noise/c"):
        sound(tmp_path / f"{name}.wav")
        picture(tmp_path / f"{name}.png")
    assert load(tmp_path).findings.lines() == [
        "left aside 1 recording in none of the folders of splits, such as noise/c.wav"
    ]
    assert open_images(f"images:{tmp_path}", "train").notes == (
        "left aside 1 image in no folder of a split, such as noise/c.png",
    )


def test_a_class_that_looks_like_a_split_is_warned_of(tmp_path: Path) -> None:
    for name in ("training", "test"):
        for i in range(20):
            sound(tmp_path / name / f"{i}.wav")
            picture(tmp_path / name / f"{i}.png")
    for (line,) in (load(tmp_path).findings.lines(), open_images(f"images:{tmp_path}", "train").notes):
        assert line.startswith("the folders test, training are taken for classes, though their names are like those of")
    assert suspicious(["latest", "contest", "valley", "devil", "trains"]) == []
    assert suspicious(["test_set", "Eval", "train-data"]) == ["test_set", "Eval", "train-data"]
    assert not are_splits(["train", "cars"])
    assert [split_of(name) for name in ("DEV", "Validation", "latest")] == ["validation", "validation", None]


# Names of any kind (row 13)


def test_a_class_whose_name_is_no_utf_8_can_be_written_down(tmp_path: Path) -> None:
    for name in (b"\xff", b"cat"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        for i in range(20):
            sound(folder / f"{i}.wav")
            picture(folder / f"{i}.png")
    assert load(tmp_path).findings.skipped == ()
    for classes in (load(tmp_path).classes, open_images(f"images:{tmp_path}", "train").classes):
        assert classes == ("cat", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("names", [["٣", "2", "x"], ["²", "10", "9"], ["௧௨", "a٣b", "a3b"], ["007", "7", "07"]])
def test_names_of_any_digits_sort(names: list[str], tmp_path: Path) -> None:
    orders = {tuple(sorted(some, key=natural)) for some in (names, names[::-1])}
    assert len(orders) == 1, "the order that they are found in does not matter"
    for name in names:
        for i in range(9):
            sound(tmp_path / name / f"{i}.wav")
            picture(tmp_path / name / f"{i}.png")
    assert load(tmp_path).classes == open_images(f"images:{tmp_path}", "train").classes == next(iter(orders))


def test_numbers_sort_as_numbers_however_long_they_are() -> None:
    names = [f"{'9' * 5000}.wav", "10.wav", f"1{'0' * 5000}.wav", "9.wav"]
    assert sorted(names, key=natural) == ["9.wav", "10.wav", names[0], names[2]]


# Formats (row 11)


def test_every_format_that_libsndfile_reads_is_a_recording_and_a_prompt(tmp_path: Path) -> None:
    import soundfile

    samples = 0.3 * np.sin(np.arange(8000) / 5).astype(np.float32)
    kinds = {"mp3": "MP3", "opus": "OGG", "aiff": "AIFF", "Au": "AU", "CAF": "CAF", "w64": "W64", "wav": "WAV"}
    for ending, kind in kinds.items():
        path = tmp_path / f"a.{ending}"
        soundfile.write(path, samples, 8000, format=kind, subtype="OPUS" if ending == "opus" else None)
        assert len(read_prompt(path, FORMAT)[0]) == pytest.approx(8000, abs=1200)
        assert path.suffix.lower() in (*SOUND_SUFFIXES, *UNREADABLE_SOUND)
    audio = load(tmp_path)
    assert {name.removeprefix("a.") for name in audio.names} < kinds.keys()
    assert audio.findings.lines() == []
    assert len(audio) + sum(len(load(tmp_path, split)) for split in ("test",)) == len(kinds)


def test_sound_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    for i in range(20):
        (tmp_path / f"b{i}.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (line,) = load(tmp_path).findings.lines()
    assert line.startswith("skipped 17 of 18 recordings: b0.m4a cannot be read (Format not recognised); ")


# Truncated files (row 18)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "OGG", "MP3"])
def test_a_recording_that_is_cut_off_is_read_and_counted(kind: str, tmp_path: Path) -> None:
    import soundfile

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    for name in ("cut", "whole"):
        soundfile.write(tmp_path / f"{name}.{kind.lower()}", samples, 8000, format=kind)
    cut = tmp_path / f"cut.{kind.lower()}"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    codes, notes = read_prompt(cut, FORMAT)
    assert 20_000 < len(codes) < 30_000
    assert notes == [f"{cut} ends before the end that its header names: read up to there"]
    assert read_prompt(tmp_path / f"whole.{kind.lower()}", FORMAT)[1] == []
    (tmp_path / "only").mkdir()
    cut.rename(tmp_path / "only" / cut.name)
    assert load(tmp_path / "only").findings.lines()[1:] == [
        "1 of 1 recordings are cut off before the end that their headers name, and were read up to there"
    ]


def test_a_wav_of_unknown_length_is_not_cut_off(tmp_path: Path) -> None:
    """As ffmpeg and others write it to a pipe."""
    path = sound(tmp_path / "a.wav")
    whole = bytearray(path.read_bytes())
    at = whole.index(b"data") + 4
    whole[4:8] = whole[at : at + 4] = b"\xff" * 4
    path.write_bytes(whole)
    codes, notes = read_prompt(path, FORMAT)
    assert (len(codes), notes) == (800, [])


# Few recordings (row 6)


def test_one_recording_is_parted_in_time(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1000)
    parts = [load(tmp_path, split) for split in SPLITS]
    assert [part.lengths.tolist() for part in parts] == [[880], [60], [60]]
    whole, _ = read_prompt(tmp_path / "a.wav", FORMAT)
    np.testing.assert_array_equal(np.concatenate([part.codes for part in parts]), whole)
    assert parts[0].findings.lines() == ["a.wav is the only recording of its kind, so each split has a part of it"]
    np.testing.assert_array_equal(load(tmp_path / "a.wav").codes, parts[0].codes)


def test_a_class_with_one_recording_is_in_every_split(tmp_path: Path) -> None:
    sound(tmp_path / "rare" / "a.wav", 1000)
    for i in range(20):
        sound(tmp_path / "often" / f"{i}.wav", 100)
    for split in SPLITS:
        labels = load(tmp_path, split).labels
        assert labels is not None
        assert set(labels.tolist()) == {0, 1}


def test_three_recordings_say_how_to_train_without_validation(tmp_path: Path) -> None:
    for i in range(3):
        sound(tmp_path / f"{i}.wav")
    with pytest.raises(UserError, match=r"is in the validation split: add some, .* or set data.validation = 0"):
        load(tmp_path, "validation")
    assert len(load(tmp_path)) == 2


# Texts of one line or record (row 5)


@pytest.mark.parametrize("suffix", [".txt", ".md", ".txt.gz"])
@pytest.mark.parametrize("text", ["one word and another " * 200, "x" * 1000, "語" * 1000, "a long line\n" + "b " * 900])
def test_a_text_without_good_lines_is_parted_all_the_same(text: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    parts = [content(open_corpus(str(path), split)) for split in SPLITS]
    assert b"".join(parts) == text.encode()
    for part, share in zip(parts, (0.9, 0.05, 0.05), strict=True):
        assert len(part) == pytest.approx(share * len(text.encode()), rel=0.3)
        part.decode("utf-8")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_one_of_few_records_is_parted(count: int, tmp_path: Path) -> None:
    texts = [f"{i} " * 500 for i in range(count)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    blocks = [[block.data.decode() for block in open_corpus(str(path), split).blocks()] for split in SPLITS]
    assert ["".join(parts) for parts in zip(*blocks, strict=True)] == texts
    assert all(blocks[1])
    assert len({open_corpus(str(path), split).identity() for split in SPLITS}) == 3


# Unicode marks (row 7)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"first word\n" * 40)
    assert content(open_corpus(str(path), "train")).startswith(b"first word\n")
    tokenizer = prepare_tokenizer(str(path), "word", progress=False)
    assert tokenizer.vocab == 4, "<eos>, <unk> and two words"
    assert content(open_corpus(str(path), "test")).startswith(b"first"), "parts that begin later have none"
    records = tmp_path / "a.jsonl"
    records.write_bytes(codecs.BOM_UTF8 + b'{"text": "one"}\n' * 40)
    assert content(open_corpus(str(records), "train")).startswith(b"oneone")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_text_in_utf_16_is_named(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes('{"text": "hello"}\n'.encode(encoding) * 30)
    if encoding == "utf-32" and suffix == ".txt":
        path.write_bytes('{"text": "hello"}\n'.encode(encoding))
    with pytest.raises(
        UserError, match=r"is text in UTF-(16|32)(LE|BE)?: expected UTF-8; convert it, .* iconv -f UTF-"
    ):
        prepare_tokenizer(str(path), "word", progress=False)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_mark_of_utf_16_is_named_even_where_bytes_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("hello\n" * 30).encode(encoding))
    tokenizer = prepare_tokenizer(str(path), "bytes", progress=False)
    with pytest.raises(UserError, match=r"is text in UTF-(16|32): expected UTF-8"):
        open_text(str(path), "train", tokenizer, progress=False)


def test_the_byte_tokeniser_takes_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("hello\n".encode("utf-16-le") * 30)
    assert prepare_tokenizer(str(path), "bytes", progress=False).vocab == 257


# Endings (row 17)


@pytest.mark.parametrize("name", ["a.TXT", "a.md", "a.Md.GZ", "a.JSONL", "a.text"])
def test_a_text_is_one_whatever_the_capitals_of_its_ending(name: str, tmp_path: Path) -> None:
    lines = b'{"text": "a"}\n' * 40 if "json" in name.lower() else b"a\n" * 40
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.lower().endswith(".gz") else lines)
    assert kind_of(name) == "text"
    assert set(content(open_corpus(str(tmp_path / name), "train"))) <= {*b"a\n"}


# Permissions (row 10)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that everybody may use, in which there is one that only root may enter."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own are for its user alone
        folder = Path(name)
        folder.chmod(0o777)
        for name in ("shut/a.wav", "shut/a.png", "shut/train.txt", "shut/config.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("x")
        for i in range(3):
            sound(folder / f"{i}.wav")
            picture(folder / f"{i}.png")
        (folder / "shut").chmod(0)
        yield folder
        (folder / "shut").chmod(0o700)


ENTERING = (
    "train mnist-small --set data.dataset=images:.",
    "train mnist-small --set data.dataset=images:shut",
    "train mnist-small --set data.dataset=images:shut/deeper",
    "train fsdd-small --set data.dataset=audio:. data.labels=false",
    "train fsdd-small --set data.dataset=audio:shut/a.wav data.labels=false",
    "train wikitext-mini --set data.dataset=./shut",
    "train wikitext-mini --set data.dataset=shut/train.txt",
    "info shut",
    "eval shut/inner",
    "train shut/recipe.toml",
    "train mnist-small --out shut/run --set data.dataset=mnist-mini data.validation=9",
    "sample mnist-small -o shut/x.png",
    "sample wikitext2-small --prompts shut/prompts.txt",
)


def test_a_folder_that_may_not_be_entered_is_one_line(closed: Path) -> None:
    for command, (code, error) in zip(ENTERING, as_nobody(ENTERING, closed), strict=True):
        assert code == 2, (command, error)
        (line,) = [line for line in error.splitlines() if "s4gen: error" in line]
        assert line == error.splitlines()[-1], command
        assert "ermission" in line, command
        assert "Traceback" not in error, command
