"""Audio data sets in Parquet, in the layout of `datasets`: the bytes of one sound file per row, and maybe its class."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from s4gen.data.audio.clips import Source
from s4gen.data.audio.reading import Recording
from s4gen.data.splits import split_of_file
from s4gen.errors import UserError


def from_parquet(folder: Path, split: str, name: str, origin: str) -> Source:
    """The rows of the Parquet files in `folder` that are named for the split, such as train-00000-of-00001.parquet.

    A column `audio` = struct{`bytes`, `path`} holds sound files of any kind that soundfile reads; a column `label` of
    whole numbers, where there is one, holds their classes. A negative label stands for none.

    Raises:
        UserError: no files of this split, or they are damaged or hold something else.
    """
    files = tuple(sorted(path for path in folder.glob("*.parquet") if split_of_file(path.stem) == split))
    if not files:
        way_out = "; or set data.validation = 0 to train without it" if split == "validation" else ""
        raise UserError(f"no {split}-*.parquet in {folder}: expected files of that name for each split{way_out}")
    label = _features(files).get("label")
    classes = tuple(getattr(label, "names", ()))
    if not classes and str(getattr(label, "dtype", "")).startswith(("int", "uint")):
        highest = max((row["label"] for row in _rows(files, "label") if row["label"] is not None), default=-1)
        classes = tuple(map(str, range(highest + 1)))
    return Source(name, split, origin, partial(_recordings, files, bool(classes)), folder, files, classes)


def _recordings(files: Sequence[Path], labelled: bool) -> Iterator[Recording]:
    columns = ("audio", "label") if labelled else ("audio",)
    for number, row in enumerate(_rows(files, *columns)):
        audio, label = row["audio"] or {}, row.get("label")
        name = audio.get("path") or f"row {number}"
        yield Recording(name, partial(_open, audio.get("bytes")), None if label is None or label < 0 else label)


def _open(content: bytes | None) -> BinaryIO:
    if content is None:
        raise FileNotFoundError("the row holds no bytes")
    return io.BytesIO(content)


def _features(files: Sequence[Path]) -> Any:
    """Kinds of the columns by name."""
    with _loaded(files) as rows:
        return rows.features


def _rows(files: Sequence[Path], *columns: str) -> Iterator[dict[str, Any]]:
    """The rows of all files, one after another; sound stays bytes, for decoding by `datasets` wants torchcodec."""
    from datasets import Audio

    with _loaded(files) as rows:
        yield from rows.cast_column("audio", Audio(decode=False)).select_columns(list(columns))


@contextlib.contextmanager
def _loaded(files: Sequence[Path]) -> Iterator[Any]:
    """What `datasets` makes of the files, streaming.

    Raises:
        UserError: they are damaged, or have no column of sound files.
    """
    from datasets import load_dataset

    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # a failure is reported here, once
    where = f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"
    try:
        # Streaming writes nothing but a lock, which goes with the folder.
        with tempfile.TemporaryDirectory() as scratch:
            paths = [glob.escape(str(file)) for file in files]
            rows = load_dataset("parquet", data_files=paths, split="train", streaming=True, cache_dir=scratch)
            if "audio" not in rows.features:
                raise UserError(f"{where}: no column audio, but {', '.join(rows.features)}")
            yield rows
    except UserError:
        raise
    except Exception as error:  # Arrow and datasets each have their own kinds for a damaged file
        raise UserError(f"{where}: damaged, or not Parquet with sound ({error}); copy or download it again") from error
    finally:
        logger.setLevel(before)
