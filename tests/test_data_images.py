"""Images <-> sequences <-> PNG files lose nothing, and what cannot be converted is refused."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from s4gen.config import ImageLayout
from s4gen.data import ImageSet, open_split, split_validation, to_image, to_sequence
from s4gen.data.images import read_image, save_each, save_grid
from s4gen.errors import UserError

GREY = ImageLayout(5, 4, 1)
RGB = ImageLayout(5, 4, 3)


def random_sequences(layout: ImageLayout, n: int) -> torch.Tensor:
    return torch.randint(layout.levels, (n, layout.length), generator=torch.Generator().manual_seed(0))


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))
)
def test_images_and_sequences_convert_exactly_both_ways(images: np.ndarray) -> None:
    layout = ImageLayout(*images.shape[1:])
    sequences = to_sequence(images)
    assert sequences.dtype == torch.int64
    assert sequences.shape == (len(images), layout.length)
    back = to_image(sequences, layout)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, images)
    assert torch.equal(to_sequence(back), sequences)


def test_a_sequence_is_in_raster_order_with_channels_interleaved() -> None:
    images = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    top_right_green, bottom_left_red = images[0, 0, 1, 1], images[0, 1, 0, 0]
    sequence = to_sequence(images)[0]
    assert sequence[1 * 3 + 1] == top_right_green
    assert sequence[2 * 3 + 0] == bottom_left_red


def test_a_view_of_images_converts_like_its_copy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    view = images[::2, :, ::-1].transpose(0, 2, 1, 3)
    assert torch.equal(to_sequence(view), to_sequence(view.copy()))


@pytest.mark.parametrize("value", [-1, 16, 256])
def test_a_value_that_is_no_level_is_refused(value: int) -> None:
    layout = ImageLayout(2, 2, 1, levels=16)
    sequences = torch.zeros(1, 4, dtype=torch.int64)
    sequences[0, 2] = value
    with pytest.raises(ValueError, match="expected values 0 to 15"):
        to_image(sequences, layout)


def test_a_sequence_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected sequences \(n, 20\), got \(1, 21\)"):
        to_image(torch.zeros(1, 21, dtype=torch.int64), GREY)


@pytest.mark.parametrize("images", [np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 1), np.uint8)], ids=["float", "one image"])
def test_only_stacks_of_bytes_become_sequences(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(n, h, w, c\)"):
        to_sequence(images)


@pytest.mark.parametrize("layout", [GREY, RGB, ImageLayout(5, 4, 3, levels=16), ImageLayout(3, 3, 1, levels=2)])
def test_single_pngs_read_back_exactly(layout: ImageLayout, tmp_path: Path) -> None:
    sequences = random_sequences(layout, 3)
    paths = save_each(sequences, layout, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["00000.png", "00001.png", "00002.png"]
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    for sequence, path in zip(sequences, paths, strict=True):
        assert torch.equal(to_sequence(read_image(path, layout)[None])[0], sequence)


def test_fewer_levels_are_shown_from_black_to_white(tmp_path: Path) -> None:
    layout = ImageLayout(1, 4, 1, levels=4)
    (path,) = save_each(torch.tensor([[0, 1, 2, 3]]), layout, tmp_path)
    with Image.open(path) as image:
        assert np.asarray(image).tolist() == [[0, 85, 170, 255]]


@pytest.mark.parametrize("layout", [GREY, RGB])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_grid_shows_every_image_enlarged_in_reading_order(layout: ImageLayout, n: int, tmp_path: Path) -> None:
    sequences = random_sequences(layout, n)
    path = tmp_path / "grid.png"
    save_grid(sequences, layout, path, scale=3)
    with Image.open(path) as image:
        assert image.mode == ("L" if layout.channels == 1 else "RGB")
        shown = np.asarray(image).reshape(image.height, image.width, layout.channels)
    columns = {1: 1, 2: 2, 5: 3}[n]
    gap = 0 if n == 1 else 3  # torchvision draws no lines around a single image
    for index, expected in enumerate(to_image(sequences, layout)):
        top = gap + index // columns * (5 * 3 + gap)
        left = gap + index % columns * (4 * 3 + gap)
        tile = shown[top : top + 15, left : left + 12]
        np.testing.assert_array_equal(tile, expected.repeat(3, axis=0).repeat(3, axis=1))


def test_a_grid_is_a_png_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"grid\.jpg: images are written as PNG"):
        save_grid(random_sequences(GREY, 1), GREY, tmp_path / "grid.jpg")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_grid_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    save_grid(random_sequences(GREY, 4), GREY, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"disk full while writing .*grid\.png"):
        save_grid(random_sequences(GREY, 9), GREY, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        save_each(random_sequences(GREY, 1), GREY, tmp_path / "taken")


def test_layouts_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    layout = ImageLayout(2, 2, 2)
    with pytest.raises(UserError, match="2 channels cannot be shown"):
        save_each(random_sequences(layout, 1), layout, tmp_path)


def pixels(layout: ImageLayout) -> np.ndarray:
    return to_image(random_sequences(layout, 1), layout)[0]


def written(tmp_path: Path, image: Image.Image, name: str = "prompt.png", **options: Any) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_conversions_that_lose_nothing_are_made(tmp_path: Path) -> None:
    grey, colour = pixels(GREY), pixels(RGB)
    grey_as_rgb = grey.repeat(3, axis=2)
    opaque = np.concatenate([colour, np.full((5, 4, 1), 255, np.uint8)], axis=2)
    few = Image.fromarray(colour // 64 * 64).quantize(256)
    bits = grey > 127
    cases = [
        (Image.fromarray(grey_as_rgb), GREY, grey),
        (Image.fromarray(grey[..., 0]), RGB, grey_as_rgb),
        (Image.fromarray(opaque), RGB, colour),
        (few, RGB, np.asarray(few.convert("RGB"))),
        (Image.fromarray(bits[..., 0]), GREY, bits * np.uint8(255)),
    ]
    for index, (image, layout, expected) in enumerate(cases):
        np.testing.assert_array_equal(read_image(written(tmp_path, image, f"{index}.png"), layout), expected)


def test_images_that_do_not_fit_are_refused_with_what_was_wanted(tmp_path: Path) -> None:
    glass = Image.fromarray(np.full((5, 4, 4), 100, np.uint8))
    deep = Image.fromarray(np.full((5, 4), 1000, np.uint16))
    cases = [
        (Image.new("L", (5, 4)), GREY, "5 x 4 pixels, mode L: expected 4 x 5 pixels, grey"),
        (Image.fromarray(pixels(RGB)), GREY, "is a colour image: expected 4 x 5 pixels, grey"),
        (glass, RGB, "is transparent in places"),
        (deep, GREY, "mode I;16: expected 4 x 5 pixels, grey, 8 bits a channel"),
        (
            Image.new("L", (4, 5), 7),
            ImageLayout(5, 4, 1, levels=4),
            r"shades between the 4 .*\[0, 85, 170, 255\]",
        ),
    ]
    for index, (image, layout, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            read_image(written(tmp_path, image, f"{index}.png"), layout)


@pytest.mark.parametrize("content", [None, b"", b"not an image", "cut"])
def test_missing_and_damaged_images_are_refused_by_name(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "prompt.png"
    if content == "cut":
        whole = written(tmp_path, Image.fromarray(pixels(RGB))).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"prompt\.png cannot be read as an image"):
        read_image(path, RGB)


def test_validation_is_the_end_of_the_training_split() -> None:
    images = open_split("cifar10-mini", "train")
    train, validation = split_validation(images, 28)
    assert (len(train), len(validation)) == (100, 28)
    assert (train.split, validation.split) == ("train", "validation")
    np.testing.assert_array_equal(np.concatenate([train.images, validation.images]), images.images)
    np.testing.assert_array_equal(np.concatenate([train.labels, validation.labels]), images.labels)


def test_no_validation_is_an_empty_set() -> None:
    images = open_split("cifar10-mini", "train")
    train, validation = split_validation(images, 0)
    assert (len(train), len(validation)) == (128, 0)
    assert isinstance(validation, ImageSet)


@pytest.mark.parametrize("n", [-1, 128, 1000])
def test_validation_must_leave_something_to_train_on(n: int) -> None:
    with pytest.raises(UserError, match=f"data.validation = {n}: expected 0 to 127"):
        split_validation(open_split("cifar10-mini", "train"), n)
