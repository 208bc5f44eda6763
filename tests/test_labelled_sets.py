"""Examples of classes and numbers that are read: images, sound, texts and arrays."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from s4gen.config import DataConfig, SeriesLayout, TaskConfig
from s4gen.data.audio.format import format_of
from s4gen.data.audio.opening import open_split as open_sound
from s4gen.data.audio.opening import recipe_format
from s4gen.data.examples import Examples, ExampleSplits
from s4gen.data.images import to_sequence
from s4gen.data.labelled import open_examples
from s4gen.data.labelled.image_examples import row_maker
from s4gen.data.opening import open_split as open_pictures
from s4gen.errors import UserError

CLASSIFY, REGRESS = TaskConfig("classify"), TaskConfig("regress")


def opened(dataset: str | Path, task: TaskConfig = CLASSIFY, **settings: Any) -> ExampleSplits:
    return open_examples(DataConfig(str(dataset), **settings), task)


def refused(dataset: str | Path, task: TaskConfig = CLASSIFY, **settings: Any) -> str:
    """Return the one line that says why data cannot be used."""
    with pytest.raises(UserError) as caught:
        opened(dataset, task, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("targets", [np.arange(1000) % 2, np.arange(1000) // 500, np.arange(1000) % 10 // 5])
def test_a_part_of_a_set_has_all_classes_whatever_their_order(targets: np.ndarray[Any, Any]) -> None:
    part = Examples(list(targets[:, None]), targets).spread(500)
    assert len(part) == 500 and abs(part.targets.mean() - 0.5) < 0.07
    assert [row[0] for row in part.inputs] == part.targets.tolist()
    again = Examples(list(targets[:, None]), targets)
    assert (again.spread(500).targets == part.targets).all() and again.spread(1000) is again


# Images


def test_rows_of_images_are_those_of_density_models() -> None:
    splits = opened("cifar10-mini", validation=10)
    images = open_pictures("cifar10-mini", "test")
    wanted = to_sequence(images.images).numpy()
    assert len(splits.test) == len(wanted) and len(splits.validation) == 10
    for row, sequence in zip(splits.test.inputs, wanted, strict=True):
        assert row.dtype == np.uint8 and (row == sequence).all()
    assert (splits.test.targets == images.labels).all()
    assert (splits.layout, splits.answers) == (images.layout, images.classes)
    assert np.shares_memory(splits.test.inputs[0], splits.test.inputs[0].base), "no copy of all images is made"


def test_grey_is_that_of_pil() -> None:
    splits = opened("cifar10-mini", grey=True, validation=0)
    images = open_pictures("cifar10-mini", "train").images
    for row, image in zip(splits.train.inputs[:20], images, strict=False):
        assert (row == np.asarray(Image.fromarray(image).convert("L")).ravel()).all()
    assert (splits.layout.length, len(splits.validation)) == (1024, 0)


def test_permuted_images_have_one_order() -> None:
    plain, permuted = opened("mnist-mini", validation=5), opened("mnist-mini", validation=5, permuted=True)
    layout = plain.layout
    numbers = np.arange(784).reshape(28, 28, 1)
    order = row_maker(layout, False, True)(numbers)  # type: ignore[arg-type]
    assert sorted(order.tolist()) == list(range(784)) and (order != np.arange(784)).mean() > 0.9
    assert order[:4].tolist() == [269, 11, 403, 600], "the same order with every version of numpy"
    for name in ("train", "test"):
        for row, other in zip(plain.split(name).inputs[:9], permuted.split(name).inputs[:9], strict=True):
            assert (row[order] == other).all()
    colours = row_maker(layout, False, True)(np.arange(784 * 3).reshape(28, 28, 3))  # type: ignore[arg-type]
    assert (colours.reshape(-1, 3) == order[:, None] * 3 + np.arange(3)).all(), "a pixel's channels stay together"


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "sizes"), [("mnist", (59_000, 1_000, 10_000)), ("cifar10", (49_000, 1_000, 10_000))]
)
def test_the_real_images(dataset: str, sizes: tuple[int, ...]) -> None:
    splits = opened(dataset, permuted=True)
    assert tuple(map(len, (splits.train, splits.validation, splits.test))) == sizes


def save_pictures(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), number).save(folder / name / f"{number}.png")


def test_folders_of_images(tmp_path: Path) -> None:
    save_pictures(tmp_path, {"cat": 30, "dog": 30})
    splits = opened(f"images:{tmp_path}", validation=3)
    assert splits.answers == ("cat", "dog") and splits.layout.length == 16
    assert Counter(splits.train.targets.tolist()).keys() == {0, 1}


def test_images_that_cannot_be_told_apart(tmp_path: Path) -> None:
    save_pictures(tmp_path, {"train/cat": 9, "test/cat": 9})
    assert "one class, cat" in refused(f"images:{tmp_path}") or "no classes" in refused(f"images:{tmp_path}")
    save_pictures(tmp_path / "b", {"train/cat": 9, "train/cow": 9, "test/cat": 3, "test/dog": 3})
    assert "the class dog" in refused(f"images:{tmp_path / 'b'}", validation=2)
    assert "grey already" in refused("mnist-mini", grey=True)


# Sound


def save_sound(path: Path, frequency: float, rate: int = 8000, samples: int = 800) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate), rate)


def test_rows_of_sound_are_those_of_density_models() -> None:
    data = DataConfig("fsdd-mini", validation=6)
    splits, test = open_examples(data, CLASSIFY), open_sound("fsdd-mini", "test", recipe_format(data))
    assert len(splits.validation) == 6 and len(splits.test) == len(test)
    for number in (0, 3, len(test) - 1):
        assert (splits.test.inputs[number] == test.clip(number)).all()
    assert test.labels is not None and (splits.test.targets == test.labels).all()
    assert splits.answers == tuple("0123456789")
    assert len(opened("fsdd-mini", validation=0).validation) == 0


def test_sound_at_another_rate_is_the_same_sound() -> None:
    full, half = (opened("fsdd-mini", rate=rate, law="linear", bits=16, validation=6) for rate in (8000, 4000))
    assert (full.layout.kind, half.layout) == ("audio", type(full.layout)(4000, "linear", 16))
    assert (full.test.targets == half.test.targets).all()
    decode = format_of(full.layout).quantiser.decode  # type: ignore[arg-type]
    assert [note.partition(":")[0] for note in half.notes] == ["train", "test"]
    for number in (0, 1, 2):
        whole, thin = decode(full.test.inputs[number]), decode(half.test.inputs[number])
        assert len(thin) == pytest.approx(len(whole) / 2, abs=1)
        # What lies below 1 kHz is in both: it is compared in the frequency domain, where the rates differ by scale.
        a, b = np.fft.rfft(whole), np.fft.rfft(thin) * 2
        keep = len(whole) // 8
        assert np.abs(a[:keep] - b[:keep]).max() < 0.05 * np.abs(a[:keep]).max()


def test_speech_commands_lists_say_what_is_held_out(tmp_path: Path) -> None:
    for word, frequency in (("yes", 200), ("no", 600)):
        for number in range(4):
            save_sound(tmp_path / word / f"{number}_nohash_0.wav", frequency)
    (tmp_path / "validation_list.txt").write_text("yes/0_nohash_0.wav\nno/1_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/2_nohash_0.wav\nno/3_nohash_0.wav\n")
    splits = opened(f"audio:{tmp_path}", rate=8000)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [4, 2, 2]
    assert splits.answers == ("no", "yes") and splits.train.targets.tolist() == [0, 0, 1, 1]
    assert all(len(row) == 800 for row in splits.train.inputs)


def test_folders_of_sound_without_lists(tmp_path: Path) -> None:
    for word, frequency in (("yes", 200), ("no", 600)):
        for number in range(20):
            save_sound(tmp_path / word / f"{number}.wav", frequency, samples=400 + number)
    splits = opened(f"audio:{tmp_path}", rate=8000)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [34, 2, 4]
    (tmp_path / "yes" / "3.wav").write_bytes(b"")
    assert any("skipped 1 of" in line for line in opened(f"audio:{tmp_path}", rate=8000).notes)


def test_sound_that_cannot_be_told_apart(tmp_path: Path) -> None:
    for number in range(20):
        save_sound(tmp_path / "a" / "yes" / f"{number}.wav", 200)
    assert "have no classes, or one only" in refused(f"audio:{tmp_path / 'a'}", rate=8000)
    for split, words in (("train", ("yes", "no")), ("valid", ("yes",)), ("test", ("yes", "go"))):
        for word in words:
            save_sound(tmp_path / "b" / split / word / "0.wav", 300)
    assert "go" in refused(f"audio:{tmp_path / 'b'}", rate=8000)


@pytest.mark.data
def test_the_real_spoken_digits() -> None:
    splits = opened("fsdd", validation=270, rate=4000)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [2430, 270, 300]
    assert np.bincount(splits.test.targets).tolist() == [30] * 10


# Texts


def save_texts(folder: Path, texts: dict[str, str]) -> str:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return f"labelled:{folder}"


def decoded(splits: ExampleSplits, examples: Examples) -> list[tuple[str, str]]:
    assert splits.tokenizer is not None
    rows: Sequence[Any] = examples.inputs
    return [
        (splits.tokenizer.decode(row.tolist()), splits.answers[target])
        for row, target in zip(rows, examples.targets.tolist(), strict=True)
    ]


IMDB = {
    "train/pos/0_9.txt": "A fine film, été.",
    "train/pos/1_7.txt": "Good.",
    "train/neg/0_3.txt": "Bad <br /> film.",
    "train/neg/1_1.txt": "No.",
    "train/unsup/0_0.txt": "Who knows?",
    "train/urls_pos.txt": "http://example.org",
    "test/pos/0_10.txt": "Great.",
    "test/neg/0_2.txt": "Awful.",
    "imdb.vocab": "the",
    "README.txt": "Large Movie Review Dataset",
}


def test_a_folder_of_texts_by_class(tmp_path: Path) -> None:
    dataset = save_texts(tmp_path, IMDB)
    splits = opened(dataset, tokenizer="bytes", validation=0)
    assert decoded(splits, splits.train) == [
        (IMDB["train/neg/0_3.txt"], "neg"),
        (IMDB["train/neg/1_1.txt"], "neg"),
        (IMDB["train/pos/0_9.txt"], "pos"),
        (IMDB["train/pos/1_7.txt"], "pos"),
    ]
    assert decoded(splits, splits.test) == [("Awful.", "neg"), ("Great.", "pos")]
    assert (splits.layout.vocab, splits.answers, len(splits.validation)) == (257, ("neg", "pos"), 0)
    assert splits.notes == ("left aside 1 texts without a class, such as train/unsup/0_0.txt",)
    held = opened(dataset, tokenizer="bytes", validation=1)
    assert (len(held.train), len(held.validation), len(held.test)) == (3, 1, 2)
    short = opened(dataset, tokenizer="bytes", validation=0, longest=5)
    assert max(map(len, short.train.inputs)) == 5 and short.train.inputs[0].tobytes()[::2] == b"Bad <"


def test_texts_without_splits_are_parted_always_in_the_same_way(tmp_path: Path) -> None:
    texts = {f"{label}/{number}.txt": f"{label} {number}" for label in ("ham", "spam") for number in range(50)}
    dataset = save_texts(tmp_path, texts)
    one, two = (opened(dataset, tokenizer="bytes", validation=4) for _ in range(2))
    assert (len(one.train), len(one.validation), len(one.test)) == (90, 4, 5)
    for name in ("train", "validation", "test"):
        assert decoded(one, one.split(name)) == decoded(two, two.split(name))
        assert all(text.startswith(label) for text, label in decoded(one, one.split(name)))
    assert Counter(label for _, label in decoded(one, one.train)).keys() == {"ham", "spam"}
    everything = [pair for name in ("train", "validation", "test") for pair in decoded(one, one.split(name))]
    assert len(set(everything)) == 99


@pytest.mark.parametrize(("tokenizer", "size"), [("word", 0), ("bpe", 260)])
def test_other_tokenisers_are_made_of_the_training_texts(tmp_path: Path, tokenizer: str, size: int) -> None:
    dataset = save_texts(tmp_path, {name: f" {text} \n" for name, text in IMDB.items()})
    splits = opened(dataset, tokenizer=tokenizer, vocab_size=size, validation=0)
    assert (" Good. \n", "pos") in decoded(splits, splits.train)
    assert splits.tokenizer is not None and splits.layout.vocab == splits.tokenizer.vocab
    if tokenizer == "word":
        assert decoded(splits, splits.test) == [(" <unk> \n", "neg"), (" <unk> \n", "pos")]


def test_json_lines_with_text_and_label(tmp_path: Path) -> None:
    records = [{"text": f"text {n}", "label": n % 3} for n in range(30)] + [{"text": "which?", "label": -1}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    save_texts(tmp_path, {"train.jsonl": lines, "test.jsonl": lines[: lines.index("\n") + 1]})
    splits = opened(f"labelled:{tmp_path}", tokenizer="bytes", validation=0)
    assert decoded(splits, splits.train) == [(f"text {n}", str(n % 3)) for n in range(30)]
    assert decoded(splits, splits.test) == [("text 0", "0")] and splits.notes == ("left aside 1 texts without a class",)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    alone = opened(f"labelled:{tmp_path / 'all.jsonl.gz'}", tokenizer="bytes", validation=5)
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (26, 2, 2)
    renamed = lines.replace("text", "body", 1).replace('"text"', '"body"').replace("label", "stars")
    other = save_texts(tmp_path / "c", {"a.jsonl": renamed}) + "/a.jsonl"
    assert "no text in text" in refused(other)
    assert len(opened(other, text_column="body", label_column="stars").train) == 26


def test_parquet_with_text_and_label(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    for split, n in (("train", 8), ("test", 4)):
        rows = {"text": [f"{split} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    splits = opened(f"labelled:{tmp_path}", tokenizer="bytes", validation=2)
    assert splits.answers == ("neg", "pos") and (len(splits.train), len(splits.validation), len(splits.test)) == (
        7,
        1,
        4,
    )
    assert decoded(splits, splits.test) == [(f"test {i}", ("neg", "pos")[i % 2]) for i in range(4)]
    assert "no column stars, but text, label" in refused(f"labelled:{tmp_path}", label_column="stars")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert "damaged or not Parquet" in refused(f"labelled:{tmp_path}")


def test_texts_that_cannot_be_learnt_from(tmp_path: Path) -> None:
    def case(name: str, texts: dict[str, str], **settings: Any) -> str:
        return refused(save_texts(tmp_path / name, texts), **{"tokenizer": "bytes", "validation": 0, **settings})

    assert "no such folder" in refused(f"labelled:{tmp_path / 'missing'}")
    assert "no texts by class" in case("flat", {"a.txt": "one", "b.txt": "two"})
    assert "no texts by class, or one class only" in case("one", {f"pos/{n}.txt": "fine" for n in range(40)})
    assert "one class, pos" in case("split", {f"{split}/pos/1.txt": "fine" for split in ("train", "test")})
    unseen = {"train/a/1.txt": "a", "train/b/1.txt": "b", "test/a/2.txt": "a", "test/c/2.txt": "c"}
    message = case("unseen", unseen)
    assert "the class c of" in message and "in the test split, but never seen in training" in message
    assert "all 2 texts are empty" in case("void", {"a/1.txt": "", "b/1.txt": " \n"})
    assert "not UTF-8 at byte 1" in _latin(tmp_path)
    assert "line 2: no JSON" in case_lines(tmp_path, '{"text": "a", "label": 0}\n{"text\n')
    assert "line 1: no class in label" in case_lines(tmp_path, '{"text": "a"}\n')
    assert "holds no texts with classes" in case_lines(tmp_path, "")


def _latin(folder: Path) -> str:
    dataset = save_texts(folder / "latin", {"a/1.txt": "ok", "b/1.txt": "x"})
    (folder / "latin" / "a" / "1.txt").write_bytes("né".encode("latin-1"))
    return refused(dataset, tokenizer="word", validation=0)


def case_lines(folder: Path, lines: str) -> str:
    return refused(save_texts(folder / "lines", {"a.jsonl": lines}) + "/a.jsonl")


def test_an_empty_text_is_left_out_and_named(tmp_path: Path) -> None:
    texts = {f"{label}/{n}.txt": "words" for label in "ab" for n in range(20)} | {"a/3.txt": " "}
    splits = opened(save_texts(tmp_path, texts), tokenizer="bytes")
    assert splits.notes == ("left out 1 of 40 texts, which are empty: a/3.txt",)


# Arrays


def save_arrays(folder: Path, **arrays: np.ndarray[Any, Any]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return f"npy:{folder}"


def made(n: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return random.normal(5, 3, (n, 10, 2)).astype(np.float32), random.normal(size=n)


def test_arrays_in_the_layout_of_bidmc(tmp_path: Path) -> None:
    (x, y), (vx, vy), (tx, ty) = made(30), made(6, 1), made(5, 2)
    dataset = save_arrays(tmp_path, trainx=x, trainy=y, validx=vx, validy=vy, testx=tx, testy=ty)
    splits = opened(dataset, REGRESS)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [30, 6, 5]
    rows = np.stack(list(splits.train.inputs))
    assert rows.dtype == np.float32 and rows.shape == (30, 10, 2)
    assert np.abs(rows.mean((0, 1))).max() < 1e-5 and np.abs(rows.std((0, 1)) - 1).max() < 1e-5
    layout = splits.layout
    assert isinstance(layout, SeriesLayout) and layout.channels == 2 and layout.length == 10
    again = splits.test.inputs[4] * np.array(layout.std) + np.array(layout.mean)
    assert np.allclose(again, tx[4], atol=1e-5)
    assert splits.train.targets.shape == (30, 1) and splits.train.targets.dtype == np.float32
    assert np.allclose(splits.test.targets[:, 0], ty) and splits.answers == ("0",)
    assert len(opened(dataset, REGRESS, validation=2).validation) == 2


def test_arrays_without_splits_and_with_classes(tmp_path: Path) -> None:
    x, _ = made(60)
    dataset = save_arrays(tmp_path, x=x[..., 0], y=np.arange(60) % 3 + 4)
    splits = opened(dataset)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [54, 3, 3]
    assert splits.answers == ("4", "5", "6") and splits.train.targets.dtype == np.int64
    assert splits.train.inputs[0].shape == (10, 1)
    assert opened(dataset, REGRESS).train.targets.shape == (54, 1)


def test_arrays_as_csv(tmp_path: Path) -> None:
    x, _ = made(12)
    np.savetxt(tmp_path / "train_x.csv", x[..., 0], delimiter=",")
    np.savetxt(tmp_path / "train_y.csv", np.arange(24).reshape(12, 2), delimiter=",", header="a,b", comments="")
    np.savetxt(tmp_path / "test-x.csv", x[:3, :, 1], delimiter=",")
    np.savetxt(tmp_path / "test-y.csv", np.ones((3, 2)), delimiter=",")
    splits = opened(f"npy:{tmp_path}", REGRESS, validation=0)
    assert splits.train.targets.tolist() == np.arange(24).reshape(12, 2).tolist() and len(splits.answers) == 2
    assert (len(splits.train), len(splits.test)) == (12, 3)


def test_arrays_that_cannot_be_learnt_from(tmp_path: Path) -> None:
    x, y = made(20)

    def case(name: str, task: TaskConfig = REGRESS, **arrays: np.ndarray[Any, Any]) -> str:
        return refused(save_arrays(tmp_path / name, **arrays), task, validation=0)

    assert "there is no such folder" in refused(f"npy:{tmp_path / 'missing'}", REGRESS)
    assert "has no trainx.npy" in case("void")
    assert "has no testx.npy" in case("half", trainx=x, trainy=y)
    assert "has no y.npy" in case("alone", x=x)
    assert "has 20 rows and" in case("fewer", x=x, y=y[:19])
    assert "has the shape 20: expected (rows, positions)" in case("flat", x=y, y=y)
    assert "has the shape 0 x 10 x 2" in case("empty", x=x[:0], y=y[:0])
    assert "holds <U3, not numbers" in case("words", x=x, y=np.array(["one"] * 20))
    nan = x.copy()
    nan[7, 2, 1] = np.nan
    assert "row 7 has a number that is NaN or infinite" in case("nan", x=nan, y=y)
    large = x.astype(np.float64)
    large[7, 2, 1] = 1e308
    assert "numbers of channel 1 of npy:" in (said := case("large", trainx=large, trainy=y, testx=x, testy=y))
    assert said.endswith(
        "are too large to be standardised in float32; correct them, or divide the channel by a constant"
    )
    behind = opened(save_arrays(tmp_path / "behind", trainx=x, trainy=y, testx=large, testy=y), REGRESS, validation=0)
    with pytest.raises(UserError, match=r"numbers of channel 1 of npy:.* are too large"):
        _ = behind.test.inputs[7]
    assert "channel 1 of" in case("constant", x=np.concatenate((x[..., :1], np.ones((20, 10, 1))), -1), y=y)
    assert "inputs of 2 numbers in training and of 1" in case("wide", trainx=x, trainy=y, testx=x[..., :1], testy=y)
    assert "are no classes" in case("halves", CLASSIFY, x=x, y=y)
    assert "one class, 1," in case("one", CLASSIFY, x=x, y=np.ones(20))
    unseen = {"trainx": x, "trainy": np.arange(20) % 2, "testx": x, "testy": np.arange(20) % 3}
    assert "the class 2 of" in case("unseen", CLASSIFY, **unseen)
    (tmp_path / "words" / "y.npy").write_bytes(b"\x93NUMPY")
    assert "is damaged, or no array of numbers" in refused(f"npy:{tmp_path / 'words'}", REGRESS)
