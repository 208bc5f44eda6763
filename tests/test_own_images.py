"""Somebody's own images: any format, size and folder, as one array; models that are conditional on their classes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import nats_by_engine
from PIL import Image
from refusals import assert_refused_in_one_line
from tiny import noisy_model

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
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
from s4gen.data import ImageFormat, ImageSet, galleries, open_split
from s4gen.data.pictures import UnusableError, read_picture
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.generate import generate
from s4gen.train import run

SMALL = ImageFormat(8, 8)


def save(path: Path, image: Image.Image | None = None, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (8, 8), (10, 20, 30))).save(path, **settings)
    return path


def load(folder: Path, split: str = "train", form: ImageFormat = SMALL) -> ImageSet:
    return open_split(f"images:{folder}", split, form)


def fill(folder: Path, *labels: str, n: int = 20) -> Path:
    """n images for each class, all different."""
    for i in range(n):
        for k, label in enumerate(labels or ("",)):
            save(folder / label / f"{i}.png", Image.new("RGB", (8, 8), (i, 50 * k, 0)))
    return folder


# One picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_every_format_of_images_is_read(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a.{kind}", Image.new("RGB", (8, 8), (40, 80, 120)), format=kind)
    pixels, _ = read_picture(path, SMALL)
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    assert np.abs(pixels.astype(int) - (40, 80, 120)).max() <= 3
    assert load(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 7, 7),
        ("1", 1, 255),
        ("I;16", 257 * 100, 100),
        ("CMYK", (0, 0, 0, 0), 255),
        ("RGBA", (0, 0, 0, 0), 255),
        ("LA", (0, 255), 0),
        ("P", 0, 0),
    ],
)
def test_every_mode_becomes_eight_bits_of_three_channels(mode: str, colour: Any, expected: int, tmp_path: Path) -> None:
    image = Image.new(mode, (8, 8), colour)
    pixels, seen = read_picture(save(tmp_path / "a.tiff", image), SMALL)
    assert (pixels == expected).all()
    assert seen.transparent == (mode == "RGBA")


def test_the_middle_is_cropped_or_all_of_it_is_stretched(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    path = save(tmp_path / "a.png", Image.fromarray(wide))
    assert (read_picture(path, SMALL)[0] == 200).all()
    stretched = read_picture(path, ImageFormat(8, 8, fit="stretch"))[0]
    assert stretched[:, 0].max() < 20
    assert stretched[:, 4].min() > 180
    assert read_picture(path, ImageFormat())[0].shape == (8, 24, 3)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, :4] = 255
    pixels, _ = read_picture(save(tmp_path / "a.png", Image.fromarray(half), exif=exif), SMALL)
    assert (pixels[:4] == 255).all()
    assert (pixels[4:] == 0).all()


def test_scaling_down_averages(tmp_path: Path) -> None:
    """A pattern finer than the pixels becomes grey, not stripes."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = read_picture(save(tmp_path / "a.png", Image.fromarray(stripes)), SMALL)
    assert np.abs(pixels.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("bad", ["cut", "empty", "words", "gone", "folder", "depth"])
def test_a_picture_that_cannot_be_used_says_why(bad: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.effect_noise((64, 64), 50))
    if bad == "depth":
        path = save(tmp_path / "a.tiff", Image.new("F", (8, 8), 0.5))
    elif bad == "folder":
        path = tmp_path
    elif bad == "gone":
        path = tmp_path / "gone.png"
    else:
        path.write_bytes({"cut": path.read_bytes()[:900], "empty": b"", "words": b"no picture"}[bad])
    with pytest.raises(UnusableError, match=r"^cannot be read \("):
        read_picture(path, SMALL)


# Folders


def test_a_folder_is_parted_by_chance_always_the_same(tmp_path: Path) -> None:
    fill(tmp_path, n=100)
    parts = [load(tmp_path, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [90, 5, 5]
    values = [set(part.images[:, 0, 0, 0].tolist()) for part in parts]
    assert set.union(*values) == set(range(100))
    assert max(values[1] | values[2]) - min(values[1] | values[2]) > 20, "from anywhere in it"
    np.testing.assert_array_equal(load(tmp_path).images, parts[0].images)


@pytest.mark.parametrize(("n", "sizes"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (10, (8, 1, 1))])
def test_few_images_are_enough_for_every_split_from_three_on(n: int, sizes: tuple[int, ...], tmp_path: Path) -> None:
    splits = galleries.assigned(np.full(n, galleries.NO_SPLIT))
    assert tuple(np.bincount(splits, minlength=3)) == sizes
    fill(tmp_path, n=n)
    if not sizes[1]:
        with pytest.raises(UserError, match=r"is in the validation split: set data.validation = 0 to train without it"):
            load(tmp_path, "validation")


def test_a_missing_validation_folder_is_made_up_for(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", n=50)
    fill(tmp_path / "test", "a", "b", n=3)
    assert [len(load(tmp_path, split)) for split in ("train", "validation", "test")] == [95, 5, 6]
    assert load(tmp_path).classes == ("a", "b")


def test_classes_are_the_folders_in_natural_order(tmp_path: Path) -> None:
    images = load(fill(tmp_path, "10", "9", "Äpfel"))
    assert images.classes == ("9", "10", "Äpfel")
    assert images.images[:, 0, 0, 1].tolist() == [[50, 0, 100][label] for label in images.labels]
    save(tmp_path / "alone.png")
    assert load(tmp_path).classes == ()


def test_skipped_files_are_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path, n=9)
    for name in ("b.jpg", "c.heic", "d.png", "e.webp", "f.gif", "g.svg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path / "small.png", Image.new("RGBA", (4, 4)))
    Image.new("L", (8, 8)).save(tmp_path / "z.gif", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    lines = load(tmp_path).notes
    assert lines[0].startswith("skipped 6 of 17 images: b.jpg cannot be read (no picture); c.heic cannot be read (")
    assert lines[0].endswith("; and 1 more")
    assert lines[1:] == (
        "1 of 11 images are smaller than asked for and were enlarged",
        "1 of 11 images are transparent in places and were laid on white",
        "1 of 11 images are files of several images, of which the first one counts",
    )


def test_images_of_several_sizes_ask_for_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", Image.new("RGB", (8, 6)))
    save(tmp_path / "b.png", Image.new("RGB", (8, 9)))
    with pytest.raises(
        UserError, match=r"a.png has 8 x 6 pixels, b.png 8 x 9; set data.size, for example data.size = 6"
    ):
        load(tmp_path, form=ImageFormat())
    (tmp_path / "b.png").unlink()
    assert load(tmp_path, form=ImageFormat()).layout == ImageLayout(6, 8, 1)


def test_grey_images_have_one_channel_unless_one_has_a_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        save(tmp_path / f"{i}.png", Image.fromarray(np.full((8, 8), i, np.uint8)))
    images = load(tmp_path)
    assert images.images.shape[1:] == (8, 8, 1)
    assert sorted(set(images.images.flatten().tolist())) == sorted({int(image[0, 0, 0]) for image in images.images})
    assert (images.images == images.images[:, :1, :1]).all()
    assert load(tmp_path, form=ImageFormat(8, 8, 3)).images.shape[-1] == 3
    save(tmp_path / "x.png", Image.new("RGB", (8, 8), (0, 0, 1)))
    assert load(tmp_path).images.shape[-1] == 3
    assert load(tmp_path, form=ImageFormat(8, 8, 1)).images.shape[-1] == 1


def test_an_array_is_made_once_and_again_when_a_picture_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, n=5)
    before = np.array(load(tmp_path).images)
    with monkeypatch.context() as patch:
        patch.setattr(galleries, "_write_pixels", lambda *_: pytest.fail("it was there"))
        np.testing.assert_array_equal(load(tmp_path).images, before)
    save(tmp_path / "0.png", Image.new("RGB", (8, 8), "white"))
    os.utime(tmp_path / "0.png", ns=(1, 1))
    pixels = np.concatenate([load(tmp_path, split).images for split in ("train", "validation", "test")])
    assert (pixels == 255).any()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gone", "images:gone: there is no such folder; expected a folder of images or of Parquet files"),
        ("a.txt", "images:a.txt: that is a file; expected a folder"),
        ("empty", "holds no images, such as PNG or JPEG, nor do its folders"),
        ("~nobody-of-this-name/x", "there is no home folder of that name"),
        ("bad", "can be used: skipped 1 of 1 images: x.png cannot be read (no picture)"),
        ("gone/too", "there is no folder gone/too, and no such data set from the hub"),
    ],
)
def test_a_wrong_place_is_one_line(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("x")
    if place == "gone/too":
        monkeypatch.setattr("datasets.load_dataset", hub_without(ConnectionError("no network\nat all")))
    code = main(["train", "own-images", "--set", f"data.dataset=images:{place}"])
    *notes, line = capsys.readouterr().err.splitlines()
    assert code == 2
    assert message in line
    assert not [note for note in notes if "Traceback" in note]


def hub_without(error: Exception) -> Callable[..., Any]:
    def load_dataset(*args: Any, **settings: Any) -> Any:
        raise error

    return load_dataset


# Tables


def write_parquet(path: Path, n: int, names: list[str] | None = None, column: str = "image") -> Path:
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as Pictures

    def png(shade: int) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(content, format="PNG")
        return content.getvalue()

    rows = {column: [{"bytes": png(i), "path": f"{i}.png"} for i in range(n)], "label": [i % 2 for i in range(n)]}
    label = ClassLabel(names=names) if names else Value("int64")
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, Features({column: Pictures(), "label": label})).to_parquet(path)
    return path


def test_parquet_files_are_a_set_with_their_splits_and_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", 40, ["cat", "dog"])
    write_parquet(tmp_path / "data" / "Test-00000-of-00001.parquet", 4, ["cat", "dog"])
    images = load(tmp_path)
    assert (len(images), images.classes) == (38, ("cat", "dog"))
    assert (images.labels == images.images[:, 0, 0, 0] % 2).all()
    assert len(load(tmp_path, "test")) == 4
    alone = load(write_parquet(tmp_path / "mine.parquet", 20, column="picture"))
    assert (len(alone), alone.classes) == (18, ("0", "1"))


def test_a_set_of_the_hub_is_read_through_datasets_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import load_dataset

    monkeypatch.chdir(tmp_path)
    files = {"train": str(write_parquet(tmp_path / "a.parquet", 20, ["x", "y"]))}
    files["validation"] = str(write_parquet(tmp_path / "b.parquet", 3, ["x", "y"]))
    calls = []

    def hub(name: str, streaming: bool) -> Any:
        calls.append(name)
        return load_dataset("parquet", data_files=files, streaming=streaming, cache_dir=str(tmp_path / "hub"))

    monkeypatch.setattr("datasets.load_dataset", hub)
    images = open_split("images:someone/things", "validation", SMALL)
    assert (images.images[:, 0, 0, 0].tolist(), images.labels.tolist()) == ([0, 1, 2], [0, 1, 0])
    assert (images.classes, set(calls)) == (("x", "y"), {"someone/things"})
    assert "s4gen: there is no folder someone/things here, so the Hugging Face hub is asked for it" in (
        capsys.readouterr().err
    )


# Models that are conditional on classes

CLASSES = ("a", "b", "c")
MODELS = {
    "tokens": ModelConfig(d_model=8, n_layers=2, d_ff=8),
    "sashimi": ModelConfig(d_model=4, n_layers=1, d_ff=4, pool=(3,)),
    "attention": ModelConfig("attention", d_model=8, n_layers=1, d_ff=8, n_heads=2),
    "pixels": ModelConfig(d_model=8, n_layers=2, d_ff=8, whole_pixels=True, neighbourhood=1, taps=True),
    "mixture": ModelConfig(
        d_model=8, n_layers=1, d_ff=8, whole_pixels=True, scan=("row", "column"), head="mixture", components=2
    ),
}


def model(kind: str) -> DensityModel:
    torch.manual_seed(0)
    built = build_model(DensityConfig(ImageLayout(4, 3, 3, 16, CLASSES), MODELS[kind], SSMConfig(d_state=4)))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built.eval()


def values(n: int = 3) -> torch.Tensor:
    return torch.randint(0, 16, (n, 36), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", MODELS)
def test_every_view_of_a_model_knows_the_label(kind: str) -> None:
    """Whole, in chunks, after a prompt, step by step, and in every engine; and the label matters to each."""
    network, x, label = model(kind), values(), torch.tensor([0, 1, 2])
    recurrent = convert(network)
    with torch.no_grad():
        whole = network.nats(x, label)
        for row in range(3):
            others = network.nats(x, torch.full((3,), row))
            assert torch.allclose(others[row], whole[row], atol=1e-5)
            assert (others[(row + 1) % 3] - whole[(row + 1) % 3]).abs().max() > 1e-3
        torch.testing.assert_close(network.nats(x), network.nats(x, torch.zeros(3, dtype=torch.int64)))
        fed, state, parts = torch.nn.functional.pad(x[:, :-1], (1, 0), value=network.bos), None, []
        for chunk, target in zip(fed.split(7, 1), x.split(7, 1), strict=True):
            nats, state = network.score(chunk, target, state, label if state is None else None)
            parts.append(nats)
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
        logits, state = network.prefill(x[:, :10], label=label)
        nats = -logits.log_softmax(-1).gather(1, x[:, 10:11])[:, 0]
        torch.testing.assert_close(nats, whole[:, 10], atol=1e-4, rtol=1e-4)
        assert torch.equal(state.label, label) if isinstance(state.label, torch.Tensor) else False
        torch.testing.assert_close(recurrent.nats_recurrent(x, label).float(), whole, atol=1e-3, rtol=1e-3)
        for engine in ("eager", "auto"):
            found = nats_by_engine(recurrent, make_engine(engine, recurrent), x, label)
            torch.testing.assert_close(found.float(), whole, atol=1e-3, rtol=1e-3)
    assert certify(recurrent, x, label=label).max_abs_logprob_difference < 1e-3


@pytest.mark.parametrize("kind", ["tokens", "pixels"])
def test_samples_of_a_class_do_not_depend_on_the_other_classes(kind: str) -> None:
    recurrent, label = convert(model(kind)), torch.tensor([2, 0, 1, 2])
    drawn = generate(recurrent, 4, seed=3, labels=label)
    assert torch.equal(generate(recurrent, 4, seed=3, labels=label, batch_size=1), drawn)
    assert torch.equal(generate(recurrent, 4, seed=3, labels=torch.tensor([2, 2, 2, 2]))[[0, 3]], drawn[[0, 3]])
    prompt = drawn[0, :7]
    after = generate(recurrent, 4, seed=3, labels=label, prompt=prompt)
    assert (after[:, :7] == prompt).all()
    with pytest.raises(UserError, match="the model knows 0 to 2"):
        generate(recurrent, 1, seed=0, labels=torch.tensor([3]))


def test_a_model_without_classes_is_as_it_was() -> None:
    """Neither its tensors nor its state have anything new."""
    plain = noisy_model("s4d")
    assert not [name for name in plain.state_dict() if "label" in name]
    assert plain.initial_state(2).label == ()


# All of it


RECIPE = Recipe(
    ModelConfig(d_model=8, n_layers=1, d_ff=0, whole_pixels=True),
    SSMConfig(d_state=4),
    DataConfig("images:?", labels=True, size=8, flips=True),
    OptimConfig(),
    TrainConfig(steps=3, batch_size=4, eval_every=3, eval_limit=4, n_samples=4),
)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own with a run on the images in it, of three classes."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "bücher", "ant", "bee", "cat", n=30)
    data = dataclasses.replace(RECIPE.data, dataset="images:bücher")
    from s4gen.cli.train import draw

    run(dataclasses.replace(RECIPE, data=data), tmp_path / "run", sampler=draw, progress=False)
    return tmp_path


def test_own_images_are_trained_on_measured_completed_and_sampled_by_class(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint("run/checkpoint")
    assert checkpoint.config.layout == ImageLayout(8, 8, 3, classes=("ant", "bee", "cat"))
    assert "Conditional on the label: ant, bee, cat." in (trained / "run/checkpoint/README.md").read_text("utf-8")
    with Image.open("run/samples/step-000003.png") as grid:
        assert grid.width == grid.height
    capsys.readouterr()
    results = {}
    for arguments in (["--mode", "conv"], ["--mode", "recurrent"], ["--split", "validation"], ["--split", "train"]):
        assert main(["eval", "run/checkpoint", "--json", *arguments]) == 0
        results[arguments[1]] = json.loads(capsys.readouterr().out)
    assert results["recurrent"]["bits_per_dim"] == pytest.approx(results["conv"]["bits_per_dim"], abs=1e-4)
    assert [results[key]["n_sequences"] for key in ("conv", "validation", "train")] == [4, 4, 82]
    for arguments in (["--classes", "bee"], ["--classes", "ant-cat", "-n", "6"], ["--prompt", "test", "-n", "4"]):
        assert main(["sample", "run/checkpoint", "-o", "out", "--force", *arguments]) == 0
    assert main(["sample", "run/checkpoint", "-o", "grid.png", "-n", "6", "--nearest", "2"]) == 0
    names = sorted(os.listdir("out"))
    assert "00005-cat.png" in names
    assert "00015-bee.png" in names
    assert main(["convert", "run/checkpoint", "converted", "--sequences", "2"]) == 0
    assert main(["sample", "converted", "-o", "x.png", "-n", "3", "--classes", "cat"]) == 0
    capsys.readouterr()
    arguments = ["sample", "converted", "-o", "y.png", "--classes", "cow"]
    assert_refused_in_one_line(main, arguments, "no class and no range 'cow'; the classes are ant, bee, cat", capsys)


def test_labels_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, n=30)
    data = DataConfig(f"images:{tmp_path}", labels=True)
    with pytest.raises(UserError, match=r"data.labels = true: the images of .* have no labels; put each class into a"):
        run(dataclasses.replace(RECIPE, data=data), tmp_path / "run", progress=False)


def test_other_classes_are_refused_for_measuring(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(trained / "others", "ant", "bee", n=30)
    message = "the model is conditional on ant, bee, cat, and the images of images:others are labelled with ant, bee"
    assert_refused_in_one_line(main, ["eval", "run/checkpoint", "--dataset", "images:others"], message, capsys)
    for settings, wrong in (
        (["data.dataset=mnist-mini", "data.size=9"], "data.size goes with images:PLACE, not with mnist-mini"),
        (
            ["data.dataset=images:x", "data.channels=2"],
            "data.channels = 2: expected 1 (grey), 3 (red, green, blue) or 0",
        ),
        (["data.dataset=images:x", "data.fit=pad"], 'data.fit = "pad": expected one of crop, stretch'),
    ):
        assert_refused_in_one_line(main, ["train", "wikitext-mini", "--set", *settings], wrong, capsys)
    sound = ["train", "fsdd-small", "--set", "data.size=9"]
    assert_refused_in_one_line(main, sound, "data.size = 9 goes with images, not with data.dataset", capsys)
