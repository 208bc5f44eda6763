"""The bytes of good files that others than s4gen write: pictures, sound, tables and text."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE = 1000
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "it", "was", "good"]
PICTURES = {
    "png": {},
    "jpg": {},
    "gif": {},
    "bmp": {},
    "tiff": {},
    "webp": {"lossless": True},
    "ppm": {},
    "tga": {},
    "ico": {},
}
SOUNDS = ("wav", "flac", "ogg", "aiff", "au", "caf", "w64", "mp3", "voc")


def text(lines: int = 60) -> str:
    rng = random.Random(1)
    return "".join(" ".join(rng.choices(WORDS, k=6)) + "\n" for _ in range(lines))


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (4, 4), np.uint8)


def picture_bytes(kind: str, seed: int = 0) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels(seed))
    image.save(file, {"jpg": "jpeg"}.get(kind, kind), **PICTURES[kind])
    return file.getvalue()


def odd_pictures(folder: Path) -> None:
    """Save pictures with palettes, of 16 bits, with transparency, for printing, in motion and of one bit."""
    from PIL import Image

    grey = Image.fromarray(pixels(7))
    grey.convert("P").save(folder / "palette.png")
    grey.convert("RGBA").save(folder / "alpha.png")
    grey.convert("CMYK").save(folder / "print.jpg")
    grey.convert("1").save(folder / "bits.tiff", compression="group4")
    grey.convert("YCbCr").save(folder / "video.tiff", compression="jpeg")
    Image.fromarray(pixels(8).astype(np.uint16) * 257).save(folder / "deep.png")
    for name in ("motion.gif", "motion.webp", "motion.png"):
        grey.save(folder / name, save_all=True, append_images=[Image.fromarray(pixels(i)) for i in range(3)])


def sound_bytes(kind: str, seed: int = 0, samples: int = 120) -> bytes:
    import soundfile

    file = io.BytesIO()
    rate = 16_000 if kind == "mp3" else RATE  # the format has no lower one than 8,000
    wave = 0.4 * np.sin(np.arange(samples * rate // RATE) / (5 + seed))
    subtype = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
    soundfile.write(file, wave, rate, subtype, format=kind)
    return file.getvalue()


def table_bytes(column: str, content: Callable[[str, int], bytes], kind: str) -> bytes:
    """Return a Parquet file of 20 rows, as data sets with files in them are published."""
    import pyarrow
    import pyarrow.parquet

    rows = [{column: {"bytes": content(kind, i), "path": f"{i}.{kind}"}, "label": i % 2} for i in range(20)]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def sample_of(way: str) -> bytes:
    """Return a small good file for a way to damage files."""
    short = {
        "png": picture_bytes("png"),
        "json": b'{"a": [1, 2], "b": {"c": "d"}}',
        "json lines": b'{"text": "a"}\n{"text": "b"}\n',
        "toml": b"[a]\nb = 1\nc = 2\n",
    }
    if way in short:
        return short[way]
    if way == "tensors":
        import safetensors.torch

        return safetensors.torch.save({"a": torch.ones(3, 2), "b": torch.zeros(4)}, {"format": "x"})
    if way == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/1.wav", sound_bytes("wav"))
            archive.writestr("a/2.wav", sound_bytes("wav", 1))
        return file.getvalue()
    if way == "table":
        return table_bytes("image", picture_bytes, "png")
    return gzip.compress(text().encode(), mtime=0) if way == "packed" else text().encode()
