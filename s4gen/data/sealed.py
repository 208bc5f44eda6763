"""Keep facts and arrays in the cache with checksums, so that a damaged one is never believed.

A sealed file is a JSON object whose `sha256` is that of all its other fields. One of them may be the checksum of an
array in a file beside it. Whoever can write to the cache can write checksums, too: they are against bad disks, copies
that were cut off, and editors, and not against other users, for which the folder's permissions are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from s4gen.errors import printable, shortened
from s4gen.files.atomic import read_consistent, write_atomic
from s4gen.files.parsing import json_value
from s4gen.files.reading import LARGE, open_regular, read_bounded

T = TypeVar("T")

SEAL = "sha256"
_CHUNK = 1 << 20


class DamagedError(Exception):
    """Why something in the cache cannot be used, in a few words."""

    def __init__(self, why: str) -> None:
        """Take the reason; what it quotes of a damaged file cannot command the terminal, nor fill it."""
        super().__init__(printable(shortened(why)))


class OutdatedError(Exception):
    """It is whole, but was made of other files."""


def sealed(facts: dict[str, Any]) -> bytes:
    """Return the JSON object of these facts with their checksum."""
    return json.dumps({**facts, SEAL: _seal(facts)}).encode("utf-8")


def unsealed(path: Path, check: Callable[[Any, str], T]) -> T:
    """Return what `check` makes of the facts in a sealed file.

    Args:
        path: the file.
        check: what is expected of the facts (see s4gen.files.expected).

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it cannot be read, its checksum is another one, or the facts are not what is expected.
    """
    try:
        facts = json_value(read_bounded(path, LARGE), LARGE, surrogates=True)
        if not isinstance(facts, dict) or facts.pop(SEAL, None) != _seal(facts):
            raise ValueError("its checksum is that of another content")
        return check(facts, "")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DamagedError(f"{path.name}: {error}") from error


def kept_or_made(folder: Path, read: Callable[[Path], T], fill: Callable[[Path], None], what: str) -> T:
    """Return what `read` finds in a folder of the cache; if that is not there, or no longer right, make it first.

    Args:
        folder: the folder.
        read: reads it. For what it does not want it raises OSError, OutdatedError or DamagedError.
        fill: writes into an empty folder, which then takes the place of `folder`.
        what: the name of it in the line that says that it was damaged.

    Raises:
        UserError: the cache cannot be written to; or what `fill` raises.
    """
    try:
        return read_consistent(folder, read)
    except (FileNotFoundError, OutdatedError):
        pass
    except (OSError, ValueError, DamagedError) as error:
        print(
            f"s4gen: {what} in {folder} are damaged ({printable(shortened(str(error)))}), so they are made again",
            file=sys.stderr,
        )
    write_atomic(folder, fill)
    return read_consistent(folder, read)


def digest(path: Path, most: int | None = None) -> Any:
    """Return the SHA-256 object of a file, or of its first `most` bytes, to be updated or asked for `hexdigest()`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: it is no regular file.
    """
    found, left = hashlib.sha256(), most
    with open_regular(path) as file:
        while part := file.read(_CHUNK if left is None else min(_CHUNK, left)):
            found.update(part)
            left = None if left is None else left - len(part)
    return found


def check_digest(path: Path, size: int, expected: str) -> None:
    """Compare a file with its size in bytes and its checksum, SHA-256 in hexadecimal.

    Raises:
        DamagedError: it has another size or another checksum, or cannot be read.
    """
    try:
        found_size = path.stat().st_size
        found = digest(path).hexdigest() if found_size == size else ""
    except Exception as error:
        raise DamagedError(f"{path.name}: {error}") from error
    if found_size != size:
        raise DamagedError(f"{path.name}: {found_size:,} bytes, expected {size:,}")
    if found != expected:
        raise DamagedError(f"{path.name}: its checksum is that of another content")


def _seal(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()
