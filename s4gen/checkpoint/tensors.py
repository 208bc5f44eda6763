"""Read files of tensors (safetensors): what a file claims is looked at before any of its data are read.

Such a file begins with a header, JSON that gives each tensor a type, a shape and a place in the file. So it can be
compared with what is expected while nothing has been allocated, whatever sizes a stranger has written into it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.parsing import json_value
from s4gen.files.reading import open_regular

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}
"""The types of numbers that are read, by their names in a header."""
MOST_HEADER = 100_000_000
"""Bytes of a header, as the library for these files limits it, too."""
_LENGTH = 8
"""Bytes in front of the header, which hold its length."""
_TENSOR = expected.table(
    {
        "dtype": expected.one_of(list(DTYPES)),
        "shape": expected.items(expected.whole(), most=16),
        "data_offsets": expected.items(expected.whole(), 2, 2),
    }
)
_HEADER = expected.table({}, {"__metadata__": expected.mapping(expected.text(1 << 20))}, others=_TENSOR)


class Header(NamedTuple):
    """The header of a tensor file: names, shapes and types without the numbers."""

    tensors: dict[str, Tensor]
    """Tensors on the meta device, which have a type and a shape but no memory."""
    metadata: dict[str, str]
    """Further texts by their names."""

    @property
    def numbers(self) -> int:
        """How many numbers all tensors have together."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def read_tensors(path: str | Path, check: Callable[[Header], None]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file, after `check` has looked at its header and raised nothing.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is truncated, or not safetensors.
        UserError: it is no regular file, or a tensor holds numbers that are not finite.
    """
    with open_regular(path) as file:
        header, begin, size = _read_header(file)
        check(header)
        try:
            tensors = safetensors.torch.load(begin + file.read(size - len(begin)))
        except SafetensorError as error:
            raise ValueError(str(error)) from None
    check_finite(tensors, path)
    return tensors, header.metadata


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse numbers that are infinite or none at all (NaN): with them, every result would be such a number, too.

    Raises:
        UserError: some tensor holds one; the message names the tensor and `path`, the file.
    """
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            continue
        # torch knows no isfinite for numbers of 8 bits.
        finite = torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor)
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise UserError(
                f"{path}: tensor {shortened(name, 100)} holds {bad:,} numbers that are not finite (NaN, infinite), of "
                f"{tensor.numel():,}; the file is damaged, or the training had diverged: take an earlier checkpoint"
            )


def _read_header(file: BinaryIO) -> tuple[Header, bytes, int]:
    """Return the header of a file, its first bytes as they are, header included, and the size of the file.

    Raises:
        ValueError: it is not the header of a file of this size.
    """
    size = os.fstat(file.fileno()).st_size
    begin = file.read(_LENGTH)
    length = int.from_bytes(begin, "little")
    if len(begin) < _LENGTH or length > min(size - _LENGTH, MOST_HEADER):
        raise ValueError("its header is cut off")
    begin += file.read(length)
    tables = _HEADER(json_value(begin[_LENGTH:], MOST_HEADER), "")
    metadata = tables.pop("__metadata__", {})
    for name, table in tables.items():
        claimed = math.prod(table["shape"]) * DTYPES[table["dtype"]].itemsize
        start, end = table["data_offsets"]
        if end - start != claimed or end > size - len(begin):
            raise ValueError(f"tensor {shortened(name, 100)} is not where the header says")
    if sum(end - start for start, end in (table["data_offsets"] for table in tables.values())) != size - len(begin):
        raise ValueError("it is not as long as its header says")
    try:
        claims = {
            name: torch.empty(table["shape"], dtype=DTYPES[table["dtype"]], device="meta")
            for name, table in tables.items()
        }
    except RuntimeError:  # a tensor without numbers may still have an axis too large for torch
        raise ValueError("a tensor has an impossible shape") from None
    return Header(claims, dict(metadata)), begin, size
