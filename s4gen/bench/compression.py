"""The benchmark of compression: how many bytes files take, by a model and by codecs, and how fast.

The model's row counts every byte of the container: header, names, checksums. Below it stands what its predictions alone
would take, -log2 p of the model by convolution. Codecs compress every file by itself, with their headers; those for any
bytes also all files as one. Everything is decompressed again and compared.

Seconds are those of the processor, on one thread or several, so that they mean the same on a busy machine.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from s4gen.bench.codecs import NEEDS_IMAGECODECS, Codec, Content, codecs_for, has_imagecodecs
from s4gen.bench.instruments import machine, machine_line
from s4gen.bench.tables import aligned, number
from s4gen.compress.compressor import Coder, compress, decompress
from s4gen.compress.container import Container, pack
from s4gen.compress.contents import Contents, Item
from s4gen.config import AudioLayout
from s4gen.errors import UserError
from s4gen.evaluate.audio import clip_nats, piece_of
from s4gen.evaluate.scorers import by_convolution, summed

UNITS = {"image": "bits/dim", "text": "bits/byte", "audio": "bits/sample"}


@dataclass(frozen=True)
class CodecMeasurement:
    """The sizes and seconds that a way of compressing needs for the files."""

    way: str
    size: float
    """Bytes, of all files together."""
    encode_seconds: float = math.nan
    decode_seconds: float = math.nan


@dataclass(frozen=True)
class CompressionResult:
    """All ways, side by side."""

    name: str
    machine: dict[str, str | int]
    engine: str
    kind: str
    files: int
    size: int
    """Bytes of what is compressed: pixels, samples, texts."""
    values: int
    """Values of pixels, samples, or bytes of texts."""
    rows: tuple[CodecMeasurement, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return everything for a person."""
        head = ["way", "bytes", "times smaller", UNITS[self.kind], "MB/s in", "MB/s out", "files/s in", "files/s out"]
        lines = [
            [
                row.way,
                f"{row.size:,.0f}",
                f"{self.size / row.size:.2f}",
                f"{8 * row.size / self.values:.3f}",
                *(number(self.size / spent / 1e6) for spent in (row.encode_seconds, row.decode_seconds)),
                *(number(self.files / spent) for spent in (row.encode_seconds, row.decode_seconds)),
            ]
            for row in self.rows
        ]
        files = "1 file" if self.files == 1 else f"{self.files} files"
        title = f"{self.name} ({self.engine}): {files} of {self.size:,} bytes"
        return "\n".join(
            [
                title,
                machine_line(self.machine),
                "",
                *aligned([head, *lines]),
                *(["", *self.notes] if self.notes else []),
            ]
        )


def run(
    name: str, coder: Coder, contents: Contents, items: Sequence[Item], batch: int, progress: bool = False
) -> CompressionResult:
    """Compress and decompress the items in every way.

    Raises:
        UserError: the model's output is not a finite number.
    """
    layout = coder.recurrent.config.layout
    began = time.process_time()
    container = compress(coder, contents, items, batch, progress)
    middle = time.process_time()
    files = decompress(coder, contents, container, batch, progress)
    seconds = middle - began, time.process_time() - middle
    for item, content in zip(items, files, strict=True):
        _same(item.path.name, "the model", content, contents.restore(item.tokens, item.fine, item.extra))
    coded = sum(len(block.coded) for entry in container.entries for block in entry.blocks)
    rate = layout.rate if isinstance(layout, AudioLayout) else 0
    arrays = [as_array(layout.kind, content) for content in files]
    own, beside = model_bits(coder, items, container) / 8, sum(even_bits(contents, item) for item in items) / 8
    rows = [
        CodecMeasurement("s4gen, the whole file", len(pack(container)), *seconds),
        CodecMeasurement("  of it what is coded", coded),
        CodecMeasurement("  the model's own bits", own),
        *([CodecMeasurement("  with the rest of each sample", own + beside)] if beside else []),
        *(measured(codec, codec.name, arrays) for codec in codecs_for(layout.kind, rate)),
    ]
    joined = np.frombuffer(b"".join(array.tobytes() for array in arrays), dtype=np.uint8)
    if len(items) > 1:
        rows += [measured(codec, f"{codec.name}, all in one", [joined]) for codec in codecs_for("text")]
    notes = [] if has_imagecodecs() else [f"without {', '.join(NEEDS_IMAGECODECS)}: pip install 's4gen[codecs]'"]
    size = sum(array.nbytes for array in arrays)
    values = sum(array.size for array in arrays)
    return CompressionResult(
        name,
        machine(torch.device("cpu")),
        coder.engine.name,
        layout.kind,
        len(items),
        size,
        values,
        tuple(rows),
        tuple(notes),
    )


@torch.inference_mode()
def model_bits(coder: Coder, items: Sequence[Item], container: Container) -> float:
    """Return what all tokens cost under the model by convolution, in bits."""
    score, total = by_convolution(coder.recurrent.source), 0.0
    for item, entry in zip(items, container.entries, strict=True):
        tokens = torch.from_numpy(item.tokens)[None]
        label = torch.tensor([entry.label]) if container.labelled else None
        total += float(summed(clip_nats(score, tokens, coder.recurrent.bos, label, piece_of(*tokens.shape)))[0])
    return total / math.log(2)


def even_bits(contents: Contents, item: Item) -> float:
    """Return the bits of what is coded evenly behind tokens: which of the samples it is that a code stands for."""
    widths = None if item.fine is None else contents.widths(item.extra)
    return 0.0 if widths is None else float(np.log2(widths[item.tokens]).sum())


def measured(codec: Codec, way: str, contents: Sequence[Content]) -> CodecMeasurement:
    """Compress contents one by one, decompress them and compare."""
    began = time.process_time()
    packed = [codec.encode(content) for content in contents]
    middle = time.process_time()
    found = [codec.decode(each) for each in packed]
    ended = time.process_time()
    for content, back in zip(contents, found, strict=True):
        # WebP knows no grey: its three channels are equal.
        same = back[..., :1] if back.ndim == 3 and back.size == 3 * content.size else back
        _same(way, way, np.ascontiguousarray(same).tobytes(), content.tobytes())
    return CodecMeasurement(way, sum(map(len, packed)), middle - began, ended - middle)


def as_array(kind: str, content: bytes) -> Content:
    """Return what is in a file as an array, from which every codec starts."""
    if kind == "image":
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(content)))
        return pixels if pixels.ndim == 3 else pixels[..., None]
    if kind == "audio":
        import soundfile  # type: ignore[import-untyped]

        return np.asarray(soundfile.read(io.BytesIO(content), dtype="int16")[0])
    return np.frombuffer(content, dtype=np.uint8)


def _same(name: str, way: str, found: bytes, wanted: bytes) -> None:
    """Refuse to report a way that is not lossless.

    Raises:
        UserError: what came back is something else.
    """
    if found != wanted:
        raise UserError(f"{name} does not come back by {way}, so it cannot be compared")
