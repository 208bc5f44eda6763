"""The folder of one part of a run: which run it belongs to, and blocks of results.

    part.json                                      the run, and which of its rows are in this part
    ROW-ROW-DIGEST.safetensors                     the arrays of the rows from the first number up to the second
    seconds.json                                   how long it took, for the report

`bulk.block_files` says what follows from the names of blocks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from s4gen.bulk.block_files import Arrays, blocks_in, read_block, rows_of, write_block
from s4gen.bulk.dealing import MOST_SHARDS, Shard
from s4gen.config.names import WRITTEN_IMAGES, WRITTEN_SOUND, WRITTEN_TEXTS
from s4gen.errors import UserError
from s4gen.files.atomic import destination, discard, write_error, write_file_atomic
from s4gen.files.folders import locked
from s4gen.files.parsing import json_value
from s4gen.files.unfinished import is_leftover, remove_all_leftovers

FORMAT = "s4gen-part"
FORMAT_VERSION = 1
ABOUT, SECONDS = "part.json", "seconds.json"
LARGEST = 1 << 26
"""The most bytes of a part's JSON files that are read."""

_RESULTS = (*WRITTEN_IMAGES, *WRITTEN_TEXTS, *WRITTEN_SOUND, ".json")
"""Endings that somebody gives to the name of a merged result."""


@dataclass(frozen=True)
class Run:
    """The run that a part belongs to. Parts of one run have equal ones, but for what is only shown."""

    verb: str
    """sample or eval."""
    kind: str
    """One of `config.names.KINDS`."""
    model: str
    """A digest of the checkpoint's files."""
    options: dict[str, Any]
    """Everything else that results depend on, as plain values."""
    shown: dict[str, Any]
    """Facts that a result states beside its numbers, such as the name of the data set. Parts may differ in them."""
    rows: int
    """How many rows the run has."""


@dataclass(frozen=True)
class Part:
    """A part as it is on disk."""

    path: Path
    run: Run
    shard: Shard
    own: range
    """The rows of the run that are this part's."""
    blocks: tuple[Path, ...]
    """The blocks that are there, in the order of their rows."""
    seconds: float

    @property
    def done(self) -> int:
        """How many of the part's rows are there."""
        return sum(len(rows_of(block)) for block in self.blocks)

    @property
    def complete(self) -> bool:
        """Whether its blocks hold all of its rows, each once."""
        at = self.own.start
        for block in self.blocks:
            rows = rows_of(block)
            if rows.start != at:
                return False
            at = rows.stop
        return at == self.own.stop

    def arrays(self) -> Iterator[tuple[range, Arrays]]:
        """Yield the rows of each block and its arrays, in order.

        Raises:
            UserError: a block is damaged.
        """
        for block in self.blocks:
            yield rows_of(block), read_block(block)


def read_part(path: Path) -> Part:
    """Read what a part says of itself, and which blocks it has; their contents are read later.

    Raises:
        UserError: there is no part at `path`, or part.json is damaged or of another version.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: expected a part, which sample or eval writes with --shard")
    about, file = _read_json(path / ABOUT, path), path / ABOUT
    if about.get("format") != FORMAT or about.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{file} is no part that this version of s4gen reads: expected {FORMAT} {FORMAT_VERSION}")
    try:
        run = Run(**{key: _typed(about, key, kind) for key, kind in Run.__annotations__.items()})
        numbers = [_typed(about, key, "int") for key in ("shard", "shards", "first", "stop")]
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; run the command of this part again with --force") from None
    number, of, first, stop = numbers
    if not (0 <= number < of <= MOST_SHARDS and 0 <= first <= stop <= run.rows < 2**53):
        raise UserError(f"{file} is damaged: part {number}/{of} cannot have the rows {first} to {stop} of {run.rows}")
    return Part(path, run, Shard(number, of), range(first, stop), blocks_in(path), _seconds(path))


class PartWriter:
    """Writes a part block by block; what an earlier writer of the same part left is kept."""

    def __init__(self, path: Path, run: Run, shard: Shard, own: range) -> None:
        self.path, self.run, self.shard, self.own = path, run, shard, own
        self._there = {(rows.start, rows.stop) for rows in map(rows_of, read_part(path).blocks)}

    def has(self, rows: range) -> bool:
        """Return whether the block of these rows is there."""
        return (rows.start, rows.stop) in self._there

    def write(self, rows: range, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the block of these rows.

        Raises:
            WriteError: the disk is full, or the folder cannot be written to.
        """
        write_block(self.path, rows, arrays)
        self._there.add((rows.start, rows.stop))

    def took(self, seconds: float) -> None:
        """Add to the time that the part has taken."""
        text = json.dumps({"seconds": _seconds(self.path) + seconds})
        write_file_atomic(self.path / SECONDS, text.encode())


@contextlib.contextmanager
def part_writer(path: Path, run: Run, shard: Shard, own: range, force: bool) -> Iterator[PartWriter]:
    """Begin the part at `path`, or go on with it, while no other process writes there.

    Raises:
        UserError: something else is at `path`, or another part and `force` is not set, or another process writes it.
        WriteError: the folder cannot be written to.
    """
    destination(path)  # refuses a link to nothing
    _make_free(path, run, shard, force)

    def busy() -> None:
        raise UserError(f"another process is writing {path}; wait for it, or choose another name")

    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = locked(path, busy)
        lock.__enter__()
    except OSError as error:
        raise write_error(error, path) from None
    try:
        remove_all_leftovers(path)
        if not (path / ABOUT).exists():
            about = {"format": FORMAT, "format_version": FORMAT_VERSION, **vars(run)}
            about |= {"shard": shard.number, "shards": shard.of, "first": own.start, "stop": own.stop}
            write_file_atomic(path / ABOUT, (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
        _drop_damaged(path, own)
        yield PartWriter(path, run, shard, own)
    finally:
        lock.__exit__(None, None, None)


def check_part(path: Path) -> None:
    """Refuse, before any work, a place where no part can be: a file, or a folder of other things.

    Raises:
        UserError: it is one.
    """
    if (what := path.suffix.lower()) in _RESULTS:
        raise UserError(f"{path}: with --shard, -o names the folder of the part; s4gen merge writes {what} files")
    if path.is_dir():
        inside = [entry.name for entry in path.iterdir() if not is_leftover(entry)]
        if inside and ABOUT not in inside:
            raise UserError(f"{path} exists and is no part, so it is not replaced; choose another name")
    elif path.exists():
        raise UserError(f"{path} is a file, and a part is a folder; choose another name")


def difference(one: Part, other: Part) -> str:
    """Say in words what makes two parts belong to different runs; "" where they belong to the same."""
    a, b = one.run, other.run
    pairs: list[tuple[str, Any, Any]] = [("verb", a.verb, b.verb), ("kind", a.kind, b.kind)]
    pairs += [("model", a.model[:12], b.model[:12]), ("rows", a.rows, b.rows), ("parts", one.shard.of, other.shard.of)]
    pairs += [(key, a.options.get(key), b.options.get(key)) for key in sorted(a.options | b.options)]
    for name, here, there in pairs:
        if here != there:
            return f"{name} is {_short(there)} in {other.path}, and {_short(here)} in {one.path}"
    return ""


def _make_free(path: Path, run: Run, shard: Shard, force: bool) -> None:
    """Remove the part of another run at `path` if `force` is set.

    Raises:
        UserError: `force` is not set, or what is there is no part.
    """
    check_part(path)
    if not (path / ABOUT).exists():
        return
    try:
        there = read_part(path)
        why = difference(Part(Path("this command"), run, shard, range(0), (), 0.0), there)
        if not why and there.shard != shard:
            why = f"it is part {there.shard}, and {shard} is asked for"
    except UserError as error:
        why = str(error)
    if not why:
        return
    if not force:
        raise UserError(f"{path} is another part: {why}; choose another name, or replace it with --force")
    discard(path)


def _drop_damaged(path: Path, own: range) -> None:
    """Remove the blocks that cannot be used, so that they are made anew."""
    at = own.start
    for block in read_part(path).blocks:
        rows = rows_of(block)
        try:
            # Blocks may have gaps between them, where a damaged one was removed, but they never overlap.
            if rows.start < at or rows.stop > own.stop:
                raise UserError(f"{block} holds rows of others")
            read_block(block)
            at = rows.stop
        except UserError:
            with contextlib.suppress(OSError):
                block.unlink()


def _typed(about: Mapping[str, Any], key: str, kind: str) -> Any:
    """Return a value of part.json.

    Raises:
        ValueError: it is missing, or of another type than the one named `kind`.
    """
    types = {"int": int, "str": str, "dict[str, Any]": dict}
    value = about.get(key)
    if type(value) is not types[kind]:
        raise ValueError(f"{key} is {_short(value)}")
    return value


def _seconds(path: Path) -> float:
    """Return the seconds that the part has taken so far; 0 where nobody noted them."""
    try:
        value = _read_json(path / SECONDS, path).get("seconds")
    except UserError:
        return 0.0
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0


def _read_json(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{folder} is no part: there is no {file.name} in it; sample and eval make one with --shard")
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file} is larger than any part's; it is another program's file")
        value = json_value(file.read_bytes(), LARGEST)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({str(error)[:200]}); run the command of this part again") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: expected a JSON object")
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
