"""Make and find the libraries that travel inside a wheel, one per level, so that users need no compiler."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.compiler import SOURCE, compile_library, digest_of_source, find_compiler

FOLDER = Path(__file__).parents[1] / "_engine"
"""The libraries' folder in an installed wheel; a checkout has none."""


def name_of(level: str, source: Path = SOURCE) -> str:
    """Return the name of a level's library; it changes with the source, so a stale library is never loaded."""
    return f"engine-{level}-{digest_of_source(source)}.so"


def shipped_library(level: str) -> Path | None:
    """Return the library that this installation has for a level, or None."""
    path = FOLDER / name_of(level)
    return path if path.is_file() else None


def compile_all(folder: Path) -> list[Path]:
    """Compile the engine into a folder for every level of this kind of processor, and return the libraries.

    This machine's own processor need not be able to run them.

    Raises:
        NativeUnavailable: this machine has no compiler, or the compiler does not know one of the levels.
        OSError: the folder cannot be written to.
    """
    compiler = find_compiler()
    made = []
    for level in targets.levels():
        made.append(folder / name_of(level))
        compile_library(compiler, SOURCE, level, made[-1], compiler.shipped_options())
    return made


def tag_of(libraries: list[Path]) -> str:
    """Return the tag of a wheel with these libraries: any Python, and any Linux whose C library is new enough.

    A library linked with the GNU C library names, for each function, the version it needs (GLIBC_2.17); the newest of
    them decides. A library that names none was linked with another C library and gets the plain `linux` tag.
    """
    needed = [found for path in libraries for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())]
    if not needed:
        return f"py3-none-linux_{platform.machine()}"
    major, minor = max((int(major), int(minor)) for major, minor in needed)
    return f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
