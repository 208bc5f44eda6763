"""Which recordings are in which split, with which labels: folders, archives, Parquet, named data sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sounds import encoded, noise, put

from s4gen.data.audio import AudioFormat, clips, hold_out, open_split, published
from s4gen.data.audio.mini import make
from s4gen.data.audio.published import PUBLISHED
from s4gen.data.tree import Archive, natural
from s4gen.errors import UserError
from s4gen.files.folders import cache_folder

FORMAT = AudioFormat(8000, "linear", 16)
FSDD = PUBLISHED["fsdd"].format


def fill(root: Path, *names: str) -> Path:
    """Recordings of these names; each is one sample longer than the one before."""
    for index, name in enumerate(names):
        put(root / name, noise(10 + index, index))
    return root


def names(dataset: Path | str, split: str) -> tuple[str, ...]:
    return open_split(str(dataset), split, FORMAT).names


def write_parquet(path: Path, rows: list[dict[str, object]], label: dict[str, object] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if label:
        features = {"audio": {"_type": "Audio", "sampling_rate": 8000}, "label": label}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)


def row(samples: np.ndarray, label: int | None, path: str | None = "a.flac") -> dict[str, object]:
    return {"audio": {"bytes": encoded(samples), "path": path}, "label": label}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that S4GEN_DATA names."""
    folder = tmp_path / "data [1]*"
    folder.mkdir()
    monkeypatch.setenv("S4GEN_DATA", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "audio"


def test_a_plain_folder_is_split_in_natural_order_as_published(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i}.wav" for i in range(50)))
    found = [names(tmp_path, split) for split in ("train", "validation", "test")]
    assert [len(each) for each in found] == [44, 3, 3]
    assert [name for each in found for name in each] == [f"{i}.wav" for i in range(50)]
    assert open_split(str(tmp_path), "train", FORMAT).labels is None


@pytest.mark.parametrize(("n", "sizes"), [(4328, (3808, 260, 260)), (241, (212, 14, 15))])
def test_percentages_give_the_published_splits_of_beethoven_and_youtubemix(n: int, sizes: tuple[int, ...]) -> None:
    from s4gen.data.audio.sources import _by_percent

    counts = Counter(_by_percent([f"{i}.wav" for i in range(n)], {}).values())
    assert tuple(counts[split] for split in ("train", "validation", "test")) == sizes


def test_folders_called_train_and_test_are_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.wav", "train/b.wav", "test/c.wav")
    assert names(tmp_path, "train") == ("train/a.wav", "train/b.wav")
    assert names(tmp_path, "test") == ("test/c.wav",)
    with pytest.raises(UserError, match=r"none of the 3 recordings in .* is in the validation split: add some"):
        names(tmp_path, "validation")


def test_folders_are_classes_and_every_class_is_in_every_split(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{kind}/{i}.wav" for kind in ("10", "9", "cat") for i in range(17)))
    for split, each in (("train", 14), ("validation", 1), ("test", 2)):
        audio = open_split(str(tmp_path), split, FORMAT)
        assert audio.classes == ("9", "10", "cat")
        assert audio.labels is not None
        assert [audio.classes[label] for label in audio.labels] == [name.split("/")[0] for name in audio.names]
        assert Counter(audio.labels.tolist()) == dict.fromkeys(range(3), each)


def test_classes_below_the_folders_of_splits_have_the_same_labels_in_all(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.wav", "train/dog/1.wav", "test/dog/2.wav")
    audio = open_split(str(tmp_path), "test", FORMAT)
    assert (audio.classes, audio.labels.tolist()) == (("cat", "dog"), [1])


def test_one_folder_or_a_recording_outside_of_folders_makes_no_classes(tmp_path: Path) -> None:
    fill(tmp_path / "a", *(f"only/{i}.wav" for i in range(3)))
    fill(tmp_path / "b", "x/1.wav", "y/1.wav", "0.wav")
    for root in ("a", "b"):
        assert open_split(str(tmp_path / root), "train", FORMAT).labels is None


def test_natural_order_counts_numbers() -> None:
    assert sorted(["10.wav", "9.wav", "a2", "a10", "a", ""], key=natural) == ["", "9.wav", "10.wav", "a", "a2", "a10"]


def test_unknown_data_sets_and_splits_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sco9 is no folder and no data set: .*beethoven; did you mean sc09\?"):
        open_split("sco9", "train", FORMAT)
    with pytest.raises(UserError, match="no split called 'valid': expected one of train, validation, test"):
        open_split("fsdd-mini", "valid", FORMAT)
    for name in ("fsdd", "fsdd-mini"):
        with pytest.raises(UserError, match=f"{name} has no validation split: expected train or test"):
            open_split(name, "validation", FORMAT)


def test_parquet_rows_are_clips_with_their_labels(tmp_path: Path) -> None:
    rows = [row(noise(10 + i, i), i % 2, f"{i}.flac") for i in range(5)]
    names_of_labels = {"_type": "ClassLabel", "names": ["no", "yes"]}
    write_parquet(tmp_path / "train-0.parquet", rows[:3], names_of_labels)
    write_parquet(tmp_path / "train-1.parquet", rows[3:], names_of_labels)
    audio = open_split(str(tmp_path), "train", FORMAT)
    assert audio.names == tuple(f"{i}.flac" for i in range(5))
    assert (audio.classes, audio.labels.tolist()) == (("no", "yes"), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(audio.clip(4) - 32768.0, noise(14, 4) * 32768)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "data").symlink_to(tmp_path)
    assert open_split(str(tmp_path / "hub"), "train", FORMAT).names == audio.names
    with pytest.raises(UserError, match=r"no test-\*\.parquet in .*: expected files of that name"):
        open_split(str(tmp_path), "test", FORMAT)


def test_parquet_without_metadata_has_numbers_for_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [row(noise(9), 2), row(noise(8), 0)])
    audio = open_split(str(tmp_path), "train", FORMAT)
    assert (audio.classes, audio.labels.tolist()) == (("0", "1", "2"), [2, 0])
    write_parquet(tmp_path / "train-0.parquet", [row(noise(9), 2), row(noise(8), -1)])
    assert open_split(str(tmp_path), "train", FORMAT).labels is None
    write_parquet(tmp_path / "train-0.parquet", [{"audio": row(noise(9), 0)["audio"]}])
    assert open_split(str(tmp_path), "train", FORMAT).labels is None


def test_bad_rows_of_parquet_are_skipped_by_name(tmp_path: Path) -> None:
    rows = [row(noise(9), 0), {"audio": {"bytes": b"words", "path": "w.wav"}, "label": 0}, row(noise(8), 0)]
    write_parquet(tmp_path / "train-0.parquet", [*rows, {"audio": {"bytes": None, "path": None}, "label": 0}])
    audio = open_split(str(tmp_path), "train", FORMAT)
    assert audio.lengths.tolist() == [9, 8]
    (line,) = audio.findings.lines()
    assert line.startswith("skipped 2 of 4 recordings: w.wav cannot be read (")
    assert line.endswith("; row 3 cannot be read (the row holds no bytes)")


def test_damaged_parquet_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [row(noise(900, i), 0) for i in range(20)])
    whole = path.read_bytes()
    for content in (whole[:-50], b"", b"PAR1, or so it says", whole[:4] + b"\xff" * 30 + whole[34:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train-0\.parquet: damaged, or not Parquet with sound"):
            open_split(str(tmp_path), "train", FORMAT)
    pyarrow.parquet.write_table(pyarrow.table({"sound": [1], "text": ["a"]}), path)
    with pytest.raises(UserError, match=r"train-0\.parquet: no column audio, but sound, text"):
        open_split(str(tmp_path), "train", FORMAT)
    assert capfd.readouterr() == ("", "")


def test_the_mini_set_is_real_digits_of_every_class() -> None:
    for split, count in (("train", 60), ("test", 20)):
        audio = open_split("fsdd-mini", split, FSDD)
        assert (len(audio), audio.name, audio.split, audio.origin) == (count, "fsdd-mini", split, "s4gen")
        assert audio.classes == tuple("0123456789")
        assert np.bincount(audio.labels).tolist() == [count // 10] * 10
        assert [int(name[0]) for name in audio.names] == audio.labels.tolist()
        assert audio.findings.lines() == []
        assert 1000 < audio.lengths.min() < audio.lengths.max() < 10_000
    assert published.MINI.stat().st_size < 600_000


def test_fsdd_is_the_same_from_the_original_wav_files_and_from_parquet(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "FSDD_SIZES", {"train": 60, "test": 20})
    archive = Archive(published.MINI)
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for name in sorted(archive.names(), reverse=True):
        content = archive.open(name).read()
        label = {"audio": {"bytes": content, "path": name}, "label": int(name[0])}
        rows["test" if name.endswith("_0.flac") else "train"].append(label)
    digits = {"_type": "ClassLabel", "names": list("0123456789")}
    for split in rows:
        write_parquet(data / "fsdd" / f"{split}-0.parquet", rows[split], digits)
    read = {split: open_split("fsdd", split, FSDD) for split in rows}
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("S4GEN_DATA", str(elsewhere))
    for audio in read.values():
        for index, name in enumerate(audio.names):
            samples = FSDD.quantiser.decode(audio.clip(index))
            put(elsewhere / "fsdd" / "recordings" / name.replace(".flac", ".wav"), samples)
    for split, audio in read.items():
        again, mini = open_split("fsdd", split, FSDD), open_split("fsdd-mini", split, FSDD)
        np.testing.assert_array_equal(again.codes, audio.codes)
        np.testing.assert_array_equal(again.labels, audio.labels)
        np.testing.assert_array_equal(mini.codes, audio.codes)
        assert (again.origin, audio.classes) == ("S4GEN_DATA", again.classes)
    monkeypatch.setattr(published, "FSDD_SIZES", {"train": 61, "test": 20})
    with pytest.raises(UserError, match=r"the train split of fsdd in .* has 60 recordings, expected 61"):
        open_split("fsdd", "train", FSDD)


def test_fsdd_that_is_not_there_is_one_sentence_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no fsdd: S4GEN_DATA is not set; .*git clone .* or use fsdd-mini"):
        open_split("fsdd", "train", FSDD)
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"fsdd holds no recordings: S4GEN_DATA must hold fsdd/train-\*\.parquet"):
        open_split("fsdd", "train", FSDD)


def sc09(root: Path) -> Path:
    """A little SC09 in a folder of its own, as it is in the published archive."""
    digits = ("zero", "one", "two", "nine")
    fill(root, *(f"sc09/{digit}/{name}.wav" for digit in digits for name in ("a", "b", "c")), "sc09/bed/a.wav")
    (root / "sc09" / "validation_list.txt").write_text("zero/a.wav\nnine/a.wav\n")
    (root / "sc09" / "testing_list.txt").write_text("two/c.wav\r\n")
    return root


def test_sc09_is_split_by_its_lists_and_labelled_by_its_digits(data: Path) -> None:
    sc09(data)
    audio = {split: open_split("sc09", split, FORMAT) for split in ("train", "validation", "test")}
    assert audio["validation"].names == ("nine/a.wav", "zero/a.wav")
    assert audio["validation"].labels.tolist() == [9, 0]
    assert audio["test"].names == ("two/c.wav",)
    assert audio["test"].labels.tolist() == [2]
    assert len(audio["train"]) == 12 - 3
    assert audio["train"].origin == "S4GEN_DATA"


def test_a_zip_archive_is_the_same_as_its_folder(data: Path, tmp_path: Path) -> None:
    folder = sc09(tmp_path / "unpacked")
    with zipfile.ZipFile(data / "sc09.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
        archive.writestr("__MACOSX/sc09/._a.wav", b"junk")
    from_zip = open_split("sc09", "train", FORMAT)
    from_folder = open_split(str(folder), "train", FORMAT)
    assert [name for name in from_folder.names if "bed" not in name] == list(from_zip.names)
    keep = [index for index, name in enumerate(from_folder.names) if "bed" not in name]
    for index, other in enumerate(keep):
        np.testing.assert_array_equal(from_zip.clip(index), from_folder.clip(other))
    (data / "sc09.zip").write_bytes(b"PK, or so it says")
    with pytest.raises(UserError, match=r"sc09\.zip is no readable zip archive"):
        open_split("sc09", "train", FORMAT)


def test_presets_have_the_published_formats() -> None:
    published = {
        "sc09": ("krandiash/sc09/sc09.zip", 16_000, "mu-law", 16_000),
        "youtubemix": ("krandiash/youtubemix/youtubemix.zip", 16_000, "mu-law", 131_072),
        "beethoven": ("krandiash/beethoven/beethoven.zip", 16_000, "linear", 128_000),
    }
    for name, (hub, rate, law, crop) in published.items():
        preset = PUBLISHED[name]
        assert (preset.hub, preset.format, preset.crop) == (hub, AudioFormat(rate, law, 8, "minmax"), crop)


def test_a_preset_is_downloaded_through_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    archive = tmp_path / "cached-under-some-hash"
    with zipfile.ZipFile(archive, "w") as made:
        for i in range(50):
            made.writestr(f"youtubemix/{i}.wav", encoded(noise(20 + i), kind="WAV"))
    asked = []

    def download(self: object, url: str) -> str:
        asked.append(url)
        return str(archive)

    monkeypatch.setattr(datasets.DownloadManager, "download", download)
    audio = open_split("youtubemix", "validation", FORMAT)
    assert asked == ["hf://datasets/krandiash/youtubemix/youtubemix.zip"]
    assert (audio.names, audio.origin) == (tuple(f"youtubemix/{i}.wav" for i in (44, 45, 46)), "hub")


@pytest.mark.parametrize("name", ["sc09", "youtubemix", "beethoven"])
def test_neither_data_nor_network_is_one_sentence_that_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as refused:
        published.from_hub(name, "test")
    message = str(refused.value)
    assert f"no {name}: S4GEN_DATA is not set, and downloading from the Hugging Face hub failed (" in message
    assert f"put {name}.zip from https://huggingface.co/datasets/krandiash/{name} (log in" in message
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=rf"S4GEN_DATA holds neither {name}\.zip nor {name}/: put {name}\.zip from"):
        published.from_hub(name, "test")


def test_large_sets_are_prepared_once_in_a_file_and_mapped(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "in", *(f"{kind}/{i}.wav" for kind in "ab" for i in range(9)))
    put(folder / "a" / "0.wav", np.zeros(0))
    small = open_split(str(folder), "train", FORMAT)
    assert not cache.exists()
    monkeypatch.setattr(clips, "LARGE", 1)
    reads = []
    original = clips._encode_all
    monkeypatch.setattr(clips, "_encode_all", lambda *args: reads.append(args) or original(*args))
    for times in (1, 1):
        large = open_split(str(folder), "train", FORMAT)
        assert len(reads) == times
        assert isinstance(large.codes, np.memmap)
        np.testing.assert_array_equal(large.codes, small.codes)
        np.testing.assert_array_equal(large.labels, small.labels)
        assert large.names == small.names
        assert large.findings == small.findings
        assert large.findings.lines() == ["skipped 1 of 14 recordings: a/0.wav has no samples"]
    # Another format, split or limit is another file; a changed recording makes the file anew.
    open_split(str(folder), "train", AudioFormat(8000))
    open_split(str(folder), "test", FORMAT)
    open_split(str(folder), "train", FORMAT, max_seconds=1)
    assert len(reads) == len(list(cache.iterdir())) == 4
    put(folder / "a" / "0.wav", noise(77))
    assert open_split(str(folder), "train", FORMAT).lengths[0] == 77
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["codes", "index.json"])
def test_a_damaged_cache_is_made_again(
    damage: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "LARGE", 1)
    folder = fill(tmp_path / "in", *(f"{i}.wav" for i in range(9)))
    before = np.array(open_split(str(folder), "train", FORMAT).codes)
    (kept,) = cache.iterdir()
    (kept / damage).write_bytes(b"{}")
    np.testing.assert_array_equal(open_split(str(folder), "train", FORMAT).codes, before)
    (kept / damage).unlink()
    np.testing.assert_array_equal(open_split(str(folder), "train", FORMAT).codes, before)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "LARGE", 1)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    folder = fill(tmp_path / "in", *(f"{i}.wav" for i in range(9)))
    with pytest.raises(UserError, match=r"cannot write .*a file"):
        open_split(str(folder), "train", FORMAT)


def test_held_out_clips_are_always_the_same_and_never_trained_on() -> None:
    audio = open_split("fsdd-mini", "train", FSDD)
    training, held = hold_out(audio, 12)
    assert (len(training), len(held)) == (48, 12)
    assert (training.split, held.split) == ("train", "validation")
    assert sorted(training.names + held.names) == sorted(audio.names)
    assert hold_out(audio, 12)[1].names == held.names
    assert len(set(held.labels.tolist())) > 4, "the last clips alone are all of digit 9"
    for part in (training, held):
        for index, name in enumerate(part.names):
            other = audio.names.index(name)
            np.testing.assert_array_equal(part.clip(index), audio.clip(other))
            assert part.labels[index] == audio.labels[other]
    with pytest.raises(UserError, match=r"data\.validation = 60: expected 0 to 59"):
        hold_out(audio, 60)


@pytest.mark.data
def test_the_full_digits_have_their_published_sizes() -> None:
    for split, count, total in (("train", 2700, 9_464_394), ("test", 300, 1_034_030)):
        audio = open_split("fsdd", split, FSDD)
        assert (len(audio), len(audio.codes)) == (count, total)
        assert np.bincount(audio.labels).tolist() == [count // 10] * 10
        assert (audio.origin, audio.findings.lines()) == ("S4GEN_DATA", [])
        assert [int(name[0]) for name in audio.names] == audio.labels.tolist()


@pytest.mark.data
def test_the_mini_set_can_be_made_again(tmp_path: Path) -> None:
    make.make(tmp_path / "fsdd.zip")
    assert (tmp_path / "fsdd.zip").read_bytes() == published.MINI.read_bytes()


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, s4gen.data.audio, s4gen.data.audio.batches, s4gen.data.audio.write, "
        "s4gen.data.audio.references; "
        "print(sorted({'torch', 'datasets', 'soundfile', 'soxr', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"
