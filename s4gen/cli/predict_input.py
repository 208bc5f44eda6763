"""Read the input of `s4gen predict` as it comes, in constant memory: samples, text, rows of CSV, arrays."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from s4gen.cli.predict_csv import check_range, csv_rows
from s4gen.config import AudioLayout, ImageLayout, SeriesLayout, TextLayout
from s4gen.config.names import SOUND_SUFFIXES
from s4gen.errors import UserError
from s4gen.files.folders import says_why, user_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from s4gen.checkpoint import PredictorCheckpoint
    from s4gen.data.text import Tokenizer

FORMATS = ("s16le", "f32le", "wav", "text", "csv", "npy")
NOUNS = {"audio": "sample", "text": "token", "series": "step", "image": "pixel"}
"""The noun for one position in data of each kind."""
GOES_WITH = {
    "audio": ("s16le", "f32le", "wav", "npy"),
    "text": ("text",),
    "series": ("csv", "npy"),
    "image": ("npy",),
}
"""The formats that each kind of data comes in; the first one is that of standard input."""
_BYTES = 1 << 16
"""The most bytes that are read at once. A pipe gives what it has, so nothing waits for a whole block."""


def positions(file: str, format: str | None, checkpoint: PredictorCheckpoint) -> Generator[Tensor, None, None]:
    """Yield blocks (n, ...) of what stands at each position, as `sampling.streams.Stream` reads it.

    A block is what the file or the pipe has at the time, so a reader that is behind gets longer ones.

    Args:
        file: a path, or "-" for standard input.
        format: one of FORMATS; None goes by the ending of the file, or by what the model reads.
        checkpoint: the model that reads.

    Raises:
        UserError: the format is not for this model; or, after the positions before it, something that cannot be read.
    """
    layout = checkpoint.config.layout
    format = format or _format_of(file, layout.kind)
    if format not in GOES_WITH[layout.kind]:
        expected = " or ".join(GOES_WITH[layout.kind])
        raise UserError(f"{format} is no input of a model of {layout.kind}: expected {expected} (--format)")
    if isinstance(layout, AudioLayout) and layout.normalise != "none":
        raise UserError(
            f"the model reads recordings that are scaled as a whole (data.normalise = {layout.normalise}), which a "
            "stream cannot be before it has ended; train one with data.normalise = none"
        )
    name = "standard input" if file == "-" else file
    return _positions(file, name, format, checkpoint)


def _format_of(file: str, kind: str) -> str:
    suffix = Path(file).suffix.lower()
    if suffix in (".csv", ".npy"):
        return suffix[1:]
    return "wav" if suffix in SOUND_SUFFIXES and kind == "audio" else GOES_WITH[kind][0]


def _positions(file: str, name: str, format: str, checkpoint: PredictorCheckpoint) -> Generator[Tensor, None, None]:
    import torch

    config, layout = checkpoint.config, checkpoint.config.layout
    with _opened(file) as binary:
        if isinstance(layout, TextLayout):
            tokens: Iterator[Sequence[int]] = _tokens(binary, name, checkpoint.tokenizer())
            yield from (torch.tensor(block) for block in tokens)
        elif isinstance(layout, SeriesLayout):
            rows = csv_rows(binary, name, layout) if format == "csv" else _array_rows(binary, name, layout)
            yield from (torch.from_numpy(row)[None] for row in rows)
        elif isinstance(layout, ImageLayout):
            yield _pixels(binary, name, layout, config.reader)
        else:
            blocks = _sound(binary, file, name, format, layout)
            yield from _heard(blocks, layout, config.reader)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """Open the file, or take standard input, which stays open."""
    if file == "-":
        yield sys.stdin.buffer
        return
    path = user_path(file)
    try:
        binary = path.open("rb")
    except OSError as error:
        raise UserError(says_why(error)) from error
    with binary:
        yield binary


def _chunks(binary: BinaryIO) -> Iterator[bytes]:
    read: Callable[[int], bytes] = getattr(binary, "read1", binary.read)
    while chunk := read(_BYTES):
        yield chunk


def _sound(binary: BinaryIO, file: str, name: str, format: str, layout: AudioLayout) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of samples (n,) at the layout's rate."""
    import numpy as np

    if format == "npy":
        yield _array(binary, name, (1,)).astype(np.float32)
    elif format == "wav":
        from s4gen.data.audio.reading import Recording, UnusableError, read_blocks

        # Decoding needs to go back and forth in a file, which a pipe does not allow.
        content = io.BytesIO(binary.read()) if file == "-" else user_path(file)
        try:
            yield from read_blocks(Recording(name, lambda: content), layout.rate)
        except UnusableError as error:
            raise UserError(f"{name} {error}") from error
    else:
        kind = np.dtype("<i2") if format == "s16le" else np.dtype("<f4")
        rest, done = b"", 0
        for chunk in _chunks(binary):
            chunk = rest + chunk
            whole = len(chunk) // kind.itemsize * kind.itemsize
            rest = chunk[whole:]
            samples = np.frombuffer(chunk[:whole], kind).astype(np.float32)
            samples = samples / np.float32(32768) if format == "s16le" else samples
            bad = np.flatnonzero(~np.isfinite(samples))
            yield samples[: bad[0]] if len(bad) else samples
            if len(bad):
                raise UserError(
                    f"{name}: sample {done + bad[0] + 1:,} is not a finite number; the answer is of those before it"
                )
            done += len(samples)
        if rest:
            raise UserError(
                f"{name} ends in the middle of sample {done + 1:,}: {len(rest)} of {kind.itemsize} bytes of {format}; "
                "the answer is of the whole samples before it"
            )


def _heard(blocks: Iterator[NDArray[np.float32]], layout: AudioLayout, reader: str) -> Iterator[Tensor]:
    """Turn samples into codes, or into what these decode to, as in training."""
    import torch

    from s4gen.data.audio.format import format_of

    quantiser = format_of(layout).quantiser
    for block in blocks:
        codes = quantiser.encode(block)
        if reader == "tokens":
            yield torch.from_numpy(codes.astype("int64"))
        else:
            yield torch.from_numpy(quantiser.decode(codes))[:, None]


def _tokens(binary: BinaryIO, name: str, tokenizer: Tokenizer) -> Iterator[Sequence[int]]:
    """Yield blocks of tokens of text; those of words and pairs of bytes come with the end of each line."""
    if tokenizer.kind == "bytes":
        for chunk in _chunks(binary):
            yield tokenizer.encode_bytes(chunk)
        return
    for number, line in enumerate(binary, 1):
        try:
            yield tokenizer.encode_bytes(line)
        except UnicodeDecodeError as error:
            raise UserError(f"{name}, line {number} is not UTF-8 at byte {error.start}: convert it") from error


def _array(binary: BinaryIO, name: str, dims: tuple[int, ...]) -> NDArray[Any]:
    """Read an array in NumPy's format with one of these numbers of axes, whose values are finite."""
    import numpy as np

    try:
        found = np.lib.format.read_array(
            io.BytesIO(binary.read()) if not binary.seekable() else binary, allow_pickle=False
        )
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{name} is no array in NumPy's format ({error})") from error
    if found.ndim not in dims or found.dtype.kind not in "iuf":
        expected = " or ".join(f"{n} axes" if n > 1 else "one axis" for n in dims)
        raise UserError(
            f"{name} has shape {found.shape} of {found.dtype}: expected numbers in {expected}, the first one time"
        )
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(1))[0])
        raise UserError(f"{name}: position {row + 1:,} is not a finite number")
    return found


def _array_rows(binary: BinaryIO, name: str, layout: SeriesLayout) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of an array (L, C), or (L,) of one column, standardised as in training."""
    import numpy as np

    found = _array(binary, name, (1, 2))
    found = found[:, None] if found.ndim == 1 else found
    n = len(layout.columns)
    if layout.times or found.shape[1] != n:
        also = f" and {len(layout.times)} features of the time, which only CSV has" if layout.times else ""
        raise UserError(f"{name} has {found.shape[1]} columns: expected {n} ({', '.join(layout.columns)}){also}")
    for number, row in enumerate(found, 1):
        values = (row - np.array(layout.mean)) / np.array(layout.std)
        check_range(values, f"{name}, position {number:,}", layout)
        yield values.astype(np.float32)


def _pixels(binary: BinaryIO, name: str, layout: ImageLayout, reader: str) -> Tensor:
    """Return the pixels, or values, of one image: an array of its size, or flat, of levels from 0."""
    import torch

    from s4gen.data.examples import values_of

    found = _array(binary, name, (1, 2, 3)).reshape(-1)
    if len(found) % layout.channels or found.min(initial=0) < 0 or found.max(initial=0) >= layout.levels:
        raise UserError(
            f"{name} is no image: expected whole numbers 0 to {layout.levels - 1}, {layout.channels} for each pixel"
        )
    row = found.astype("int64")
    return torch.from_numpy(row if reader == "tokens" else values_of(row, layout))
