"""Data sets come whole: from the package, from S4GEN_DATA or by download. What is damaged is named."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from s4gen.config.names import IMAGE_SETS
from s4gen.data import cifar10, mnist, open_split
from s4gen.data.mini.make import COUNTS
from s4gen.data.vision import import_torchvision
from s4gen.errors import UserError
from s4gen.files.folders import cache_folder

MNIST_RAW = Path("mnist") / "MNIST" / "raw"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that S4GEN_DATA names."""
    folder = tmp_path / "data [1]*"  # characters that mean something to glob, as a user's folder may have
    (folder / MNIST_RAW).mkdir(parents=True)
    (folder / "cifar10").mkdir()
    monkeypatch.setenv("S4GEN_DATA", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def write_idx(path: Path, values: np.ndarray) -> None:
    header = np.array([0x800 + values.ndim, *values.shape], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def write_parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as Pictures
    from PIL import Image

    rows = {"img": [Image.fromarray(image) for image in images], "label": labels.tolist()}
    kinds = Features({"img": Pictures(), "label": Value("int64") if labels.max() > 9 else ClassLabel(10)})
    Dataset.from_dict(rows, kinds).to_parquet(path)


@pytest.fixture
def file_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision download from file:// addresses (they have no length for its progress bar)."""

    def copy(url: str, filename: str) -> None:
        Path(filename).write_bytes(Path(unquote(urlparse(url).path)).read_bytes())

    monkeypatch.setattr(import_torchvision().datasets.utils, "_urlretrieve", copy)


def photographs(n: int) -> tuple[np.ndarray, np.ndarray]:
    images = open_split("cifar10-mini", "train")
    return images.images[:n], images.labels[:n]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_mini_sets_are_real_images_of_every_class(dataset: str) -> None:
    for split, count in zip(("train", "test"), COUNTS[dataset], strict=True):
        images = open_split(f"{dataset}-mini", split)
        layout = images.layout
        assert images.images.shape == (count, layout.height, layout.width, layout.channels)
        assert images.images.dtype == np.uint8
        assert images.labels.dtype == np.int64
        assert set(images.labels) == set(range(10))
        assert (images.name, images.split, images.source) == (f"{dataset}-mini", split, "s4gen")
        assert len(np.unique(images.images, axis=0)) == count
        assert (images.images.min(), images.images.max()) == (0, 255)


def test_mini_sets_are_under_a_megabyte() -> None:
    folder = Path(mnist.__file__).parent / "mini"
    assert sum(path.stat().st_size for path in folder.glob("*.npz")) < 1e6


def test_unknown_data_sets_and_splits_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=f"called 'mnits': expected one of {', '.join(IMAGE_SETS)}; did you mean mnist"):
        open_split("mnits", "train")
    with pytest.raises(UserError, match="called 'valid': expected one of train, test"):
        open_split("mnist-mini", "valid")


def test_idx_files_read_back_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    write_idx(tmp_path / "a.gz", values)
    read = mnist.read_idx(tmp_path / "a.gz", values.shape, "")
    np.testing.assert_array_equal(read, values)
    assert read.flags.writeable


def test_damaged_idx_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    values = np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)
    write_idx(path, values)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    short = gzip.compress(gzip.decompress(whole)[:-1])
    damages = {
        whole[:-9]: "damaged or unreadable",
        bytes(flipped): "damaged or unreadable",
        gzip.decompress(whole): "damaged or unreadable",
        b"": "does not hold 7 x 5 bytes",
        short: "does not hold 7 x 5 bytes",
    }
    for content, message in damages.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"images\.gz (is )?{message}"):
            mnist.read_idx(path, (7, 5), "")
    path.write_bytes(whole)
    with pytest.raises(UserError, match="does not hold 5 x 7 bytes"):
        mnist.read_idx(path, (5, 7), "")
    with pytest.raises(UserError, match=r"nothing\.gz is missing: ask its maker"):
        mnist.read_idx(tmp_path / "nothing.gz", (5, 7), "ask its maker")


def test_a_missing_file_is_named_with_what_to_do(data: Path) -> None:
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is missing: .*unset it to download MNIST"):
        open_split("mnist", "test")
    with pytest.raises(UserError, match=r"no test-\*\.parquet in .*unset it to download CIFAR-10"):
        open_split("cifar10", "test")


def test_a_data_folder_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path / "nowhere"))
    for dataset in ("mnist", "cifar10"):
        with pytest.raises(UserError, match=r"S4GEN_DATA is '.*nowhere', which is not a folder"):
            open_split(dataset, "test")


def test_parquet_files_are_read_in_order_and_kept_decoded(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = photographs(30)
    write_parquet(data / "cifar10" / "test-00000-of-00002.parquet", images[:20], labels[:20])
    write_parquet(data / "cifar10" / "test-00001-of-00002.parquet", images[20:], labels[20:])
    monkeypatch.setitem(cifar10.SIZES, "test", 30)
    for _ in range(2):
        read = open_split("cifar10", "test")
        np.testing.assert_array_equal(read.images, images)
        np.testing.assert_array_equal(read.labels, labels)
        assert read.source == "S4GEN_DATA"
        # The second time nothing is left to decode.
        monkeypatch.setattr(cifar10, "_decode", None)
    assert [path.name for path in cache.iterdir()] == ["cifar10-test.npz"]


def test_kept_images_are_not_used_when_the_files_changed_or_they_are_damaged(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = photographs(20)
    file = data / "cifar10" / "test-00000-of-00001.parquet"
    monkeypatch.setitem(cifar10.SIZES, "test", 10)
    write_parquet(file, images[:10], labels[:10])
    open_split("cifar10", "test")
    write_parquet(file, images[10:], labels[10:])
    os.utime(file, ns=(1, 1))
    np.testing.assert_array_equal(open_split("cifar10", "test").images, images[10:])
    kept = cache / "cifar10-test.npz"
    for content in (kept.read_bytes()[:5000], b"", b"no archive"):
        kept.write_bytes(content)
        np.testing.assert_array_equal(open_split("cifar10", "test").images, images[10:])


def test_a_cache_that_cannot_be_written_is_done_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    monkeypatch.setitem(cifar10.SIZES, "test", 5)
    images, labels = photographs(5)
    write_parquet(data / "cifar10" / "test-00000-of-00001.parquet", images, labels)
    np.testing.assert_array_equal(open_split("cifar10", "test").images, images)


def test_damaged_parquet_files_are_refused_by_name(data: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = data / "cifar10" / "test-00000-of-00001.parquet"
    images, labels = photographs(5)
    write_parquet(file, images, labels)
    whole = file.read_bytes()
    capfd.readouterr()  # the progress bars of writing
    for content in (whole[:-100], b"", b"PAR1, or so it says"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet is damaged or not Parquet with images"):
            open_split("cifar10", "test")
    assert capfd.readouterr() == ("", "")
    write_parquet(file, images[:, :16], labels)
    with pytest.raises(UserError, match="does not hold 32 x 32 RGB images"):
        open_split("cifar10", "test")


def test_a_missing_part_of_cifar10_is_noticed(data: Path, cache: Path) -> None:
    images, labels = photographs(5)
    write_parquet(data / "cifar10" / "train-00000-of-00005.parquet", images, labels)
    with pytest.raises(UserError, match="hold 5 images, expected 50000"):
        open_split("cifar10", "train")


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_neither_data_nor_network_is_one_sentence_that_says_how_to_get_it(
    dataset: str, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as refused:
        open_split(dataset, "test")
    message = str(refused.value)
    assert "S4GEN_DATA is not set" in message
    assert "no network in tests" in message
    assert "connect to the network, or set S4GEN_DATA to a folder that holds " + dataset in message
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("file_downloads")
def test_cifar10_downloads_through_torchvision(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file:// address, in the format of the original batches; a wrong checksum is refused."""
    images, labels = photographs(6)
    # The batches hold one row per image: all red values, then all green, then all blue.
    batch = pickle.dumps({"data": images.transpose(0, 3, 1, 2).reshape(6, -1), "labels": labels.tolist()})
    meta = pickle.dumps({"label_names": ["airplane"]})
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in (("test_batch", batch), ("batches.meta", meta)):
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content).hexdigest()

    CIFAR10 = import_torchvision().datasets.CIFAR10
    monkeypatch.setattr(CIFAR10, "url", archive.as_uri())
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(batch)]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(meta)})
    with pytest.raises(UserError, match="corrupted"):
        open_split("cifar10", "test")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    read = open_split("cifar10", "test")
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.source == "torchvision"


@pytest.mark.data
@pytest.mark.usefixtures("file_downloads")
def test_mnist_downloads_through_torchvision_and_is_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of S4GEN_DATA are byte-identical to the originals, so torchvision's checksums accept them."""
    ours = open_split("mnist", "test")
    mirror = Path(os.environ["S4GEN_DATA"]).resolve() / MNIST_RAW
    monkeypatch.delenv("S4GEN_DATA")
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "mirrors", [mirror.as_uri() + "/"])
    theirs = open_split("mnist", "test")
    assert (ours.source, theirs.source) == ("S4GEN_DATA", "torchvision")
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.labels.dtype == theirs.labels.dtype == np.int64


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "shape", "mean"),
    [
        ("mnist", (28, 28, 1), [0.1307]),
        pytest.param("cifar10", (32, 32, 3), [0.4914, 0.4822, 0.4465], marks=pytest.mark.slow),
    ],
)
def test_full_training_sets_have_their_published_means(dataset: str, shape: tuple[int, ...], mean: list[float]) -> None:
    images = open_split(dataset, "train")
    assert images.images.shape == ({"mnist": 60_000, "cifar10": 50_000}[dataset], *shape)
    assert images.labels.shape == (len(images),)
    measured = images.images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(measured, mean, atol=5e-5)


@pytest.mark.data
def test_full_test_sets_have_their_published_sizes_and_classes() -> None:
    mnist_test, cifar10_test = open_split("mnist", "test"), open_split("cifar10", "test")
    assert mnist_test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(mnist_test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert cifar10_test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar10_test.labels).tolist() == [1000] * 10


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "split"),
    [
        ("mnist", "train"),
        ("mnist", "test"),
        ("cifar10", "test"),
        pytest.param("cifar10", "train", marks=pytest.mark.slow),  # 50,000 PNG to decode
    ],
)
def test_mini_sets_are_the_head_of_the_full_ones(dataset: str, split: str) -> None:
    mini, full = open_split(f"{dataset}-mini", split), open_split(dataset, split)
    np.testing.assert_array_equal(mini.images, full.images[: len(mini)])
    np.testing.assert_array_equal(mini.labels, full.labels[: len(mini)])


def test_torchvision_imports_beside_this_torch_in_a_fresh_interpreter() -> None:
    code = "from s4gen.data.vision import import_torchvision as i; assert i() is i(); print(i().utils.make_grid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "make_grid" in done.stdout
