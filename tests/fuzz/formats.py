"""Ways to damage files of known formats so that their checksums are right again, and readers come deeper into them."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import mutate

Rng = random.Random

NAMES = (
    "../../outside.wav",
    "/etc/outside.wav",
    "a/../../b.wav",
    "caf\udce9.wav".encode("utf-8", "replace").decode(),
    "\x1b[31m.wav",
)
ODD_COLUMNS: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**62, 1.5, float("nan"), "", "x" * 1000, b"", b"\xff" * 100, [], [1], [[b"x"]]),
    *({"bytes": None, "path": None}, {"bytes": b"", "path": "a"}, {"bytes": 1}, {"path": "/dev/zero"}, {"bytes": [1]}),
    *({"bytes": b"x", "path": "../\x1b[31m"}, {"a": {"bytes": b"x"}}, ["cat", "dog"], {"label": 1}),
)


def mutate_png(content: bytes, rng: Rng) -> bytes:
    """Damage a chunk and correct its checksum; one time in four, bytes."""
    if not content.startswith(b"\x89PNG") or rng.random() < 0.25:
        return mutate.mutate_bytes(content, rng)
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.choice((0, rng.randrange(len(chunks))))
    name, data = chunks[number]
    choice = rng.randrange(5)
    if choice == 0:
        chunks.insert(number, rng.choice(chunks))
    elif choice == 1:
        del chunks[number]
    elif choice == 2 and name == b"IHDR":
        sizes = [rng.choice((0, 1, 4, 5, 100_000, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big") for _ in range(2)]
        data = sizes[0] + sizes[1] + bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
        chunks[number] = name, data
    elif choice == 3:
        extra = rng.choice((b"tRNS", b"PLTE", b"acTL", b"fcTL", b"zTXt", b"iCCP", b"eXIf", b"gAMA", b"oFFs"))
        chunks.insert(1, (extra, rng.choice((rng.randbytes(26), b"a\0\0" + zlib.compress(bytes(10**6))))))
    else:
        data = (
            zlib.compress(mutate.mutate_bytes(zlib.decompress(data), rng))
            if name == b"IDAT"
            else mutate.mutate_bytes(data, rng)
        )
        chunks[number] = name, data
    parts = (
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )
    return content[:8] + b"".join(parts)


def mutate_zip(content: bytes, rng: Rng) -> bytes:
    """Make an archive anew with odd members, or change one field of every directory entry; one time in four, bytes."""
    choice = rng.randrange(4)
    if choice == 0:
        return mutate.mutate_bytes(content, rng)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        members = old.namelist()
        odd = rng.choice(members)
        for name in members:
            data = old.read(name)
            if name == odd and choice == 1:
                name = rng.choice(NAMES)
            elif name == odd and choice == 2:
                data = rng.choice((b"", bytes(20_000_000), mutate.mutate_bytes(data, rng)))
            new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # which has no time in it
    changed = bytearray(file.getvalue())
    if choice == 3:
        # Of a local header (30 bytes before the name) or of the directory (46): flags, method, checksum or a size.
        signature, fields = rng.choice(
            ((b"PK\x03\x04", (6, 8, 14, 18, 22, 26)), (b"PK\x01\x02", (8, 10, 16, 20, 24, 28, 42)))
        )
        field, value = rng.choice(fields), rng.choice((1, 0x41, 8, 12, 14, 99, 0xFFFF))
        at = -1
        while (at := changed.find(signature, at + 1)) >= 0:
            changed[at + field : at + field + 2] = value.to_bytes(2, "little")
    return bytes(changed)


def mutate_compressed(content: bytes, rng: Rng) -> bytes:
    """Damage what stands behind the checksum of a file of s4gen compress and correct that; one time in four, bytes."""
    if rng.random() < 0.25:
        return mutate.mutate_bytes(content, rng)
    behind = bytearray(content[8:])
    for _ in range(rng.choice((1, 1, 2, 4))):
        behind[rng.randrange(min(len(behind), 60))] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
    if rng.random() < 0.2:
        del behind[rng.randrange(len(behind)) :]
    return content[:4] + zlib.crc32(behind).to_bytes(4, "little") + bytes(behind)


def mutate_table(content: bytes, rng: Rng) -> bytes:
    """Make a Parquet file anew with an odd value, type, name or number of columns; one time in three, bytes."""
    import pyarrow
    import pyarrow.parquet

    if rng.random() < 0.3:
        return mutate.mutate_bytes(content, rng)
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    rows, name = table.to_pylist(), rng.choice(table.column_names)
    odd, choice = rng.choice(ODD_COLUMNS), rng.randrange(5)
    if choice == 0:
        rows = [{**row, name: odd} for row in rows]
    elif choice == 1:
        rows = [{(f"{key}x" if key == name else key): value for key, value in row.items()} for row in rows]
    elif choice == 2:
        rows = [{**row, "more": odd} for row in rows[: rng.choice((0, 1, 20))]]
    elif choice == 3:
        rows[0] = {**rows[0], name: None}
    file = io.BytesIO()
    try:
        made = pyarrow.Table.from_pylist(rows)
        if choice == 4:
            made = made.replace_schema_metadata({"huggingface": rng.choice(mutate.RAW)[:1000]})
        pyarrow.parquet.write_table(made, file, compression=rng.choice(("none", "gzip", "zstd")))
    except (pyarrow.ArrowException, TypeError, ValueError):  # not every odd value has a type
        return mutate.mutate_bytes(content, rng)
    return file.getvalue()


FORMATS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "png": mutate_png,
    "zip": mutate_zip,
    "table": mutate_table,
    "compressed": mutate_compressed,
}
