"""What files cost: the numbers of the evaluation, files beside each other, maps, percentiles, refusals in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sounds import noise, put
from tiny_audio import sounding_model
from torch import Tensor

from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main, score_common, score_text
from s4gen.cli.score_common import map_paths
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TrainConfig,
)
from s4gen.data import open_split
from s4gen.data.images import save_each
from s4gen.data.text import ByteTokenizer, WordTokenizer, layout_of
from s4gen.data.text.tokenizer import Tokenizer
from s4gen.evaluate.maps import SoundMap, shown_words, text_map
from s4gen.evaluate.scorers import by_convolution
from s4gen.evaluate.scores import FileCosts, in_pieces, percentile, separation
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

MODEL, SSM = ModelConfig(d_model=8, n_layers=1, d_ff=0), SSMConfig(d_state=4)
Capture = pytest.CaptureFixture[str]
WORDS = WordTokenizer(["<eos>", "<unk>", *["the", "cat", "sat", "on", "a", "mat", "&", "<b>", "="]])
TEXT = "the cat sat on the mat \n a <b> cat & a zebra \n"


def shaken(model: DensityModel) -> DensityModel:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def text_model(tokenizer: Tokenizer) -> DensityModel:
    return shaken(build_model(DensityConfig(layout_of(tokenizer), MODEL, SSM)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every kind, and files of every kind."""
    folder = tmp_path_factory.mktemp("saved")
    recipe = Recipe(MODEL, SSM, DataConfig("mnist-mini"), OptimConfig(), TrainConfig())
    digits = shaken(build_model(DensityConfig(ImageLayout(28, 28, 1), MODEL, SSM)))
    save_checkpoint(folder / "digits", digits, recipe=recipe, metrics={}, card="")
    labelled = shaken(build_model(DensityConfig(ImageLayout(6, 5, 3, 11, classes=("x", "y", "z")), MODEL, SSM)))
    save_checkpoint(folder / "labelled", labelled, recipe=None, metrics={}, card="")
    for name, tokenizer in (("words", WORDS), ("bytes", ByteTokenizer())):
        save_checkpoint(folder / name, text_model(tokenizer), recipe=None, metrics={}, card="", tokenizer=tokenizer)
    for name, classes in (("sound", ()), ("spoken", ("one", "two"))):
        model = sounding_model("sashimi", classes=classes, rate=400)
        save_checkpoint(folder / name, model, recipe=None, metrics={}, card="")
    images = open_split("mnist-mini", "test").images[:5, ..., 0]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    colours = torch.randint(0, 11, (3, 90), generator=torch.Generator().manual_seed(1))
    save_each(colours, labelled.config.layout, folder / "colours")  # type: ignore[arg-type]
    (folder / "cat.txt").write_text(TEXT)
    put(folder / "clips" / "train" / "0.wav", noise(50), 400)  # without it, test would be no split
    for number, length in enumerate((700, 333, 5)):
        put(folder / f"{number}.wav", noise(length, number), 400)
        put(folder / "clips" / "test" / f"{number}.wav", noise(100 + length, 9 + number), 400)
    return folder


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(saved, tmp_path / "room")
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


def output(capsys: Capture, *argv: str) -> str:
    assert main(["score", *argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def found(capsys: Capture, *argv: str) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(output(capsys, *argv, "--json"))["files"]
    return files


def refusal(capsys: Capture, *argv: str) -> list[str]:
    """What is said of arguments of which none can be scored."""
    assert main(["score", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("s4gen: error: ")
    return printed.err.removeprefix("s4gen: error: ").splitlines()


# The numbers


def test_the_bits_of_images_are_those_of_the_evaluation(room: Path, capsys: Capture) -> None:
    files = found(capsys, "digits", *(f"{number}.png" for number in range(5)))
    assert main(["eval", "digits", "--limit", "5", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["bits_per_dim"]
    assert np.mean([each["bits_per_dim"] for each in files]) == pytest.approx(evaluated, rel=1e-9)
    for each in files:
        assert each["bits"] == pytest.approx(each["nats"] / math.log(2))
        assert each["length"] == 784 and each["bits_per_dim"] == pytest.approx(each["bits"] / 784)


def test_the_bits_of_a_text_are_those_of_the_evaluation(room: Path, capsys: Capture) -> None:
    """A split that is a whole file, with the ends of its lines and documents."""
    for model in ("words", "bytes"):
        (each,) = found(capsys, model, "cat.txt")
        Path("set").mkdir(exist_ok=True)
        shutil.copy("cat.txt", "set/test.txt")
        assert main(["eval", model, "--dataset", "./set", "--json"]) == 0
        evaluated = json.loads(capsys.readouterr().out)
        assert each["length"] == evaluated["n_tokens"] and each["bytes"] == len(TEXT)
        assert each["nats"] / each["length"] == pytest.approx(evaluated["nats"], rel=1e-6)
        assert each["bits_per_byte"] == pytest.approx(evaluated["bits_per_byte"], rel=1e-6)


def test_the_bits_of_sound_are_those_of_the_evaluation(room: Path, capsys: Capture) -> None:
    names = sorted(str(path) for path in Path("clips/test").iterdir())
    files = found(capsys, "sound", *names)
    assert main(["eval", "sound", "--dataset", "audio:clips", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert sum(each["length"] for each in files) == evaluated["n_samples"]
    bits = sum(each["bits"] for each in files) / evaluated["n_samples"]
    assert bits == pytest.approx(evaluated["bits_per_sample"], rel=1e-6)
    assert files[0]["seconds"] == files[0]["length"] / 400


@pytest.mark.parametrize(("model", "file"), [("digits", "0.png"), ("words", "cat.txt"), ("spoken", "1.wav")])
def test_both_views_agree(room: Path, capsys: Capture, model: str, file: str) -> None:
    (parallel,) = found(capsys, model, file)
    (stepped,) = found(capsys, model, file, "--mode", "recurrent", "--engine", "auto")
    assert stepped["nats"] == pytest.approx(parallel["nats"], rel=1e-4)


def test_a_file_costs_the_same_whatever_is_beside_it(room: Path, capsys: Capture) -> None:
    together = found(capsys, "digits", *(f"{number}.png" for number in range(5)))
    for number in (0, 4):
        assert found(capsys, "digits", f"{number}.png") == [together[number]]
    in_threes = found(capsys, "digits", *(f"{number}.png" for number in range(5)), "--batch", "3")
    assert [each["path"] for each in in_threes] == [f"{number}.png" for number in range(5)]
    assert [each["nats"] for each in in_threes] == pytest.approx([each["nats"] for each in together], rel=1e-6)


def test_long_files_are_scored_in_pieces(room: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state goes on from one to the next, and blocks of the file end elsewhere than pieces."""
    commands = [
        ("words", "cat.txt"),
        ("bytes", "cat.txt"),
        ("sound", "0.wav"),
        ("spoken", "0.wav"),
        ("digits", "1.png"),
    ]
    whole = [found(capsys, *command)[0] for command in commands]
    monkeypatch.setattr(score_common, "PIECE", 120)
    monkeypatch.setattr(score_text, "CHUNK", 7)
    for command, each in zip(commands, whole, strict=True):
        (again,) = found(capsys, *command)
        assert again["length"] == each["length"] and again["nats"] == pytest.approx(each["nats"], rel=1e-5)


def test_packed_text_and_records_are_read_as_in_a_data_set(room: Path, capsys: Capture) -> None:
    Path("cat.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    Path("cat.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    plain, packed, record = found(capsys, "bytes", "cat.txt", "cat.txt.gz", "cat.jsonl")
    assert plain["nats"] == packed["nats"] == record["nats"]


# Classes


def by_definition(model: DensityModel, x: Tensor, classes: list[int]) -> float:
    with torch.no_grad():
        each = torch.stack([model.log_prob(x[None], torch.tensor([label]))[0].double() for label in classes])
    return float(math.log(len(classes)) - each.logsumexp(0))


def test_a_file_of_unknown_class_costs_what_it_costs_under_all(room: Path, capsys: Capture) -> None:
    model = load_checkpoint("labelled").model
    x = torch.randint(0, 11, (3, 90), generator=torch.Generator().manual_seed(1))
    names = [f"colours/{number:05d}.png" for number in range(3)]
    for options, classes in (([], [0, 1, 2]), (["--classes", "x", "z", "x"], [0, 2]), (["--classes", "y"], [1])):
        for row, each in zip(x, found(capsys, "labelled", *names, *options), strict=True):
            assert each["nats"] == pytest.approx(by_definition(model, row, classes), rel=1e-5)
            if len(classes) == 1:
                assert "classes" not in each
                continue
            assert [*each["classes"]] == ["xyz"[label] for label in classes]
            assert sum(each["classes"].values()) == pytest.approx(1)
            costs = [by_definition(model, row, [label]) for label in classes]
            assert max(each["classes"], key=each["classes"].get) == "xyz"[classes[int(np.argmin(costs))]]


@pytest.mark.parametrize("piece", [1, 7, 30, 100])
def test_the_costs_of_tokens_are_those_of_the_mixture(piece: int) -> None:
    """Every one is a conditional probability of the mean over classes; they sum up to its logarithm."""
    model = shaken(build_model(DensityConfig(ImageLayout(6, 5, 1, 11, classes=("x", "y", "z")), MODEL, SSM)))
    x, labels = torch.randint(0, 11, (4, 30)), torch.tensor([2, 0])
    costs = FileCosts(by_convolution(model), model.bos, piece, labels)
    nats = np.concatenate([*costs.of([x[:, :11], x[:, 11:12], x[:, 12:]])], axis=1)
    assert nats.shape == (4, 30)
    with torch.no_grad():
        each = torch.stack([model.nats(x, label.expand(4)) for label in labels], dim=1).double()
    until = math.log(2) - (-each.cumsum(-1)).logsumexp(1)
    np.testing.assert_allclose(nats.cumsum(1), until.numpy(), rtol=1e-5)
    likely = (-each.sum(-1)).softmax(1)
    np.testing.assert_allclose(costs.classes(), likely.numpy(), rtol=1e-4)


def test_blocks_are_regrouped_into_pieces() -> None:
    x = torch.arange(46).view(2, 23)
    for size in (1, 4, 5, 22, 23, 24):
        for cuts in ([23], [1] * 23, [3, 11, 2, 7]):
            pieces = [*in_pieces(iter(x.split(cuts, dim=1)), size)]
            assert torch.equal(torch.cat(pieces, dim=1), x)
            assert all(piece.shape[1] == size for piece in pieces[:-1]) and 1 <= pieces[-1].shape[1] <= size
    assert [*in_pieces([], 3)] == []


# Percentiles


def test_percentiles_and_separation() -> None:
    others = np.array([1.0, 2.0, 2.0, 4.0])
    assert [percentile(cost, others) for cost in (0, 1, 2, 3, 4, 5)] == [0, 12.5, 50, 75, 87.5, 100]
    assert separation(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert separation(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 0
    assert separation(others, others) == 0.5
    assert separation(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 0.75


def test_images_among_others(room: Path, capsys: Capture) -> None:
    """The split's own images have the percentiles of their ranks."""
    names = [f"{number}.png" for number in range(5)]
    printed = json.loads(output(capsys, "digits", *names, "--against", "mnist-mini", "--limit", "5", "--json"))
    ranks = np.argsort(np.argsort([each["bits_per_dim"] for each in printed["files"]]))
    assert [each["percentile"] for each in printed["files"]] == pytest.approx([20 * rank + 10 for rank in ranks])
    assert printed["against"] == {"dataset": "mnist-mini", "split": "test", "n": 5}


def test_sound_among_others(room: Path, capsys: Capture) -> None:
    names = sorted(str(path) for path in Path("clips/test").iterdir())
    files = found(capsys, "sound", *names, "--against", "audio:clips")
    ranks = np.argsort(np.argsort([each["bits_per_dim"] for each in files]))
    assert all(abs(each["percentile"] - 100 * (rank + 0.5) / 3) < 17 for each, rank in zip(files, ranks, strict=True))
    assert len({each["percentile"] for each in files}) > 1


def test_texts_among_windows_of_their_length(room: Path, capsys: Capture) -> None:
    """A text is compared by its first tokens, of which there is a power of two, with as many of the split."""
    Path("set").mkdir()
    words = np.random.default_rng(0).choice(WORDS.words[2:], (10, 8))
    Path("set/test.txt").write_text(" ".join(words.flatten()))
    for number, window in enumerate(words):
        Path(f"{number}.txt").write_text(" ".join([*window, *window[: number % 4]]))  # 8 tokens and less than 8 others
    files = found(capsys, "words", *(f"{number}.txt" for number in range(10)), "--against", "./set")
    only = found(capsys, "words", *(f"{number}.txt" for number in range(10)), "--against", "./set", "--limit", "3")
    model, fed = load_checkpoint("words").model, torch.tensor([WORDS.eos, *WORDS.encode(" ".join(words.flatten()))])
    windows = fed[1:].view(10, 8)
    with torch.no_grad():  # a window is fed the token before it
        costs = model.score(fed[:-1].view(10, 8), windows)[0].sum(1).numpy()
        own = -model.log_prob(windows).numpy()
    for each, cost in zip(files[1:], own[1:], strict=True):  # the first one is a window itself
        assert each["percentile"] == percentile(cost, costs)
    for each, cost in zip(only[1:], own[1:], strict=True):
        assert each["percentile"] == pytest.approx(percentile(cost, costs[:3]))
    Path("set/test.txt").write_text("the cat")  # shorter than any of them
    assert all("percentile" in each for each in found(capsys, "words", "0.txt", "1.txt", "--against", "./set"))


# Forms


def test_a_table_for_people_and_one_for_programs(room: Path, capsys: Capture) -> None:
    printed = output(capsys, "digits", "0.png", "1.png").splitlines()
    assert len(printed) == 3 and printed[0].split() == ["file", "nats", "bits", "bits/dim", "length"]
    assert printed[1].split()[0] == "0.png" and printed[1].split()[-1] == "784"
    rows = [*csv.DictReader(io.StringIO(output(capsys, "spoken", "0.wav", "1.wav", "--csv")))]
    assert [row["path"] for row in rows] == ["0.wav", "1.wav"]
    header = ["path", "nats", "bits", "bits_per_dim", "length", "seconds", "class", "probability"]
    assert [*rows[0]] == header and int(rows[0]["length"]) == 700 and rows[0]["class"] in ("one", "two")
    assert "p(class)" in output(capsys, "spoken", "0.wav")
    assert "bits/byte" in output(capsys, "words", "cat.txt")


def test_names_that_would_command_the_terminal_are_shown_as_escapes(room: Path, capsys: Capture) -> None:
    shutil.copy("0.png", "a\x1b[31mb.png")
    shutil.copy("0.png", os.fsdecode(b"\xff.png"))
    assert "\x1b" not in output(capsys, "digits", "a\x1b[31mb.png", os.fsdecode(b"\xff.png"))
    assert "\x1b" not in refusal(capsys, "digits", "no\x1b[31mb.png")[0]


# Maps


def test_the_map_of_an_image_shows_where_it_is_odd(room: Path, capsys: Capture) -> None:
    (each,) = found(capsys, "digits", "0.png", "--map", "maps")
    assert each["map"] == "maps/0.cost.png"
    with Image.open(each["map"]) as picture:
        assert picture.width > 300 and picture.height > 100
    assert len(found(capsys, "labelled", "colours/00000.png", "--map", "more")) == 1


def test_the_map_of_a_text_is_a_page_by_itself(room: Path, capsys: Capture) -> None:
    class Page(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.titles, self.tags = "", [], set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}
            self.titles += [value for name, value in attrs if name == "title"]

        def handle_data(self, data: str) -> None:
            self.text += data

    shutil.copy("cat.txt", "<i>cat.txt")
    (each,) = found(capsys, "words", "<i>cat.txt", "--map", "maps")
    content = Path(each["map"]).read_text()
    page = Page()
    page.feed(content)
    assert " the cat sat on the mat \n a <b> cat & a <unk> \n" in page.text and "<i>cat.txt" in page.text
    assert not {"b", "i", "script", "link", "img"} & page.tags and "http" not in content
    costs = [float(str(title).split()[0]) for title in page.titles]
    assert len(costs) == each["length"] and sum(costs) == pytest.approx(each["bits"], abs=0.01 * len(costs))


def test_characters_of_several_tokens_are_shown_whole() -> None:
    pieces = [bytes([value]) for value in range(256)] + [b""]
    tokens = [*"aé€".encode(), 0xFF, 256]
    words = [*shown_words(pieces, tokens, np.full(len(tokens), math.log(2)))]
    assert words == [("a", 1), ("é", 2), ("€", 3), ("\ufffd", 1), ("∎", 1)]
    assert [*shown_words(pieces, [0xE2, 0x82], [math.log(2)] * 2)] == [("\ufffd", 2)]
    page = text_map("t", [("x", 0.0), ("y", 1e9), ("z", -1e-9)], "s", "a note & more")
    assert 'class="c0" title="0.00 bits">x' in page and 'class="c15"' in page and "a note &amp; more" in page


def test_a_long_text_is_shown_up_to_a_number_of_tokens(
    room: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_text, "SHOWN", 5)
    (each,) = found(capsys, "words", "cat.txt", "--map", "maps")
    content = Path(each["map"]).read_text()
    assert content.count('<span class="c') - 6 == 5 and f"the first 5 of {each['length']} tokens" in content


@pytest.mark.parametrize("n", [1, 5, 2047, 2048, 2049, 10_000, 70_001])
def test_a_sound_of_any_length_fits_into_a_picture(n: int) -> None:
    """In blocks of any lengths; nothing is lost of the costs, and the highest stands where it was."""
    rng = np.random.default_rng(0)
    samples, bits = rng.uniform(-0.5, 0.5, n).astype(np.float32), rng.uniform(0, 5, n)
    samples[n // 3], bits[n // 3] = 0.9, 99
    drawn = SoundMap()
    for part in np.array_split(np.arange(n), 7):
        drawn.add(samples[part], bits[part])
    columns, each = drawn._columns, drawn._each
    assert len(columns) < SoundMap.MOST and len(columns) == n // each
    assert columns[:, 2].sum() + drawn._rest[:, 1].sum() == pytest.approx(bits.sum())
    if n // 3 < len(columns) * each:
        assert columns[:, 3].argmax() == columns[:, 1].argmax() == n // 3 // each
    if n == 5:
        assert Image.open(io.BytesIO(drawn.png(8000))).width > 300


def test_maps_of_sound_and_their_names(room: Path, capsys: Capture) -> None:
    Path("other").mkdir()
    shutil.copy("2.wav", "other/2.wav")
    files = found(capsys, "sound", "2.wav", "other/2.wav", "--map", "maps")
    assert [each["map"] for each in files] == ["maps/2.cost.png", "maps/2-2.cost.png"]
    assert all(Path(each["map"]).is_file() for each in files)
    clashing = map_paths(Path("maps"), ["a/0.png", "b/0.png", "0-2.png", "c/0.png"], ".png")
    assert [path.name for path in clashing] == ["0.cost.png", "0-2.cost.png", "0-2-2.cost.png", "0-3.cost.png"]
    odd = map_paths(Path("maps"), ["/a/x y&z.txt", "/b/..", os.fsdecode(b"\xff.png"), "n" * 300], ".png")
    assert [path.name for path in odd[:3]] == ["x_y_z.cost.png", "...cost.png", "_.cost.png"]
    assert len(odd[3].name) < 200 and all(path.parent == Path("maps") for path in odd)


def test_maps_write_over_nothing_unasked(room: Path, capsys: Capture) -> None:
    Path("maps").mkdir()
    Path("maps/mine.txt").write_text("mine")
    Path("file").write_text("")
    (line,) = refusal(capsys, "digits", "0.png", "--map", "maps")
    assert line == "maps exists; choose another name, or write over it with --force"
    (line,) = refusal(capsys, "digits", "0.png", "--map", "file")
    assert line.startswith("file is a file")
    assert len(found(capsys, "digits", "0.png", "--map", "maps", "--force")) == 1
    assert Path("maps/mine.txt").read_text() == "mine"


# Bad input


def harm(room: Path) -> None:
    (room / "folder").mkdir()
    (room / "empty").write_bytes(b"")
    (room / "half.png").write_bytes((room / "0.png").read_bytes()[:100])
    (room / "half.wav").write_bytes((room / "0.wav").read_bytes()[:20])
    (room / "zero.bin").write_bytes(b"text\0text")
    (room / "latin.txt").write_bytes("é".encode("latin-1"))
    os.mkfifo(room / "pipe")
    Image.new("L", (30, 28)).save(room / "wide.png")
    Image.new("RGB", (28, 28), "red").save(room / "red.png")
    (room / "wide.jsonl").write_text('{"text": 3}\n')


BAD = {
    "digits": ["empty", "folder", "pipe", "nowhere", "half.png", "wide.png", "red.png", "cat.txt", "0.wav", "\0"],
    "words": ["empty", "folder", "pipe", "nowhere", "zero.bin", "latin.txt", "0.png", "wide.jsonl", "0.wav"],
    "sound": ["empty", "folder", "pipe", "nowhere", "half.wav", "0.png", "cat.txt"],
}
GOOD = {"digits": "0.png", "words": "cat.txt", "sound": "0.wav"}


@pytest.mark.parametrize("model", BAD)
def test_a_file_that_fails_is_named_and_the_others_are_scored(room: Path, capsys: Capture, model: str) -> None:
    harm(room)
    alone = found(capsys, model, GOOD[model])
    files = [*BAD[model][:3], GOOD[model], *BAD[model][3:]]
    assert main(["score", model, *files, "--json", "--map", "maps"]) == 2
    printed = capsys.readouterr()
    got = json.loads(printed.out)
    (each,) = got["files"]
    assert {name: value for name, value in each.items() if name != "map"} == alone[0]
    assert [failed["path"] for failed in got["failed"]] == BAD[model]
    assert len([*Path("maps").iterdir()]) == 1
    *lines, last = printed.err.splitlines()
    assert last == f"s4gen: error: {len(BAD[model])} of {len(files)} files could not be scored"
    assert len(lines) == len(BAD[model])
    for line, file, failed in zip(lines, BAD[model], got["failed"], strict=True):
        assert line == f"s4gen: error: {failed['error']}" and file.replace("\0", "\\x00") in line, line


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(room: Path, capsys: Capture) -> None:
    Path("0.png").chmod(0)
    (line,) = refusal(capsys, "digits", "0.png")
    assert "Permission denied" in line


def test_sound_of_another_form_is_converted_with_a_line(room: Path, capsys: Capture) -> None:
    put(room / "stereo.wav", np.stack([noise(800)] * 2, axis=1), 800)
    assert main(["score", "sound", "stereo.wav", "--csv"]) == 0
    printed = capsys.readouterr()
    assert int(next(csv.DictReader(io.StringIO(printed.out)))["length"]) == 400
    assert re.findall(r"stereo.wav (has \w+ \w+)", printed.err) == ["has 800 samples", "has 2 channels"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["digits", "0.png", "--against", "mnits-mini"], "mnits-mini"),
        (["words", "cat.txt", "--against", "mnist-mini"], "mnist-mini is no text"),
        (["sound", "0.wav", "--against", "wikitext-mini"], "wikitext-mini is no "),
        (["digits", "0.png", "--against", "cifar10-mini"], "the model is for 28 x 28 x 1"),
        (["digits", "0.png", "--json", "--csv"], "--json and --csv"),
        (["digits", "0.png", "--engine", "eager"], "--mode recurrent"),
        (["digits", "0.png", "--classes", "3"], "is not conditional on classes"),
        (["spoken", "0.wav", "--classes", "three"], "no class and no range 'three'"),
        (["nowhere", "0.png"], "no checkpoint at nowhere"),
        (["", "0.png"], "the name of the checkpoint is empty"),
        (["digits", "0.png", "--limit", "3"], "--limit is about the data set of --against"),
        (["digits", "0.png", "--split", "test"], "--split is about the data set of --against"),
        (["digits", "0.png", "--force"], "--force is about the folder of --map"),
        (["digits"], "required: FILE"),
    ],
)
def test_refusals(room: Path, capsys: Capture, argv: list[str], said: str) -> None:
    (line,) = refusal(capsys, *argv)
    assert said in line


def test_a_model_that_diverged_is_said_to_have(room: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileCosts, "_of_any_class", lambda self, nats: nats[:, 0] * np.nan)
    for model, file in GOOD.items():
        (line,) = refusal(capsys, model, file, "--map", f"maps-{model}")
        assert line == f"{file}: its cost under the model is not a finite number"
        assert not Path(f"maps-{model}").exists()
