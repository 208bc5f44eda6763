"""Libraries of the engine that travel inside a wheel, one for each level, so that nothing is compiled where it goes."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.compiler import SOURCE, compile_library, digest_of_source, find_compiler

FOLDER = Path(__file__).parents[1] / "_engine"
"""Where they lie in an installed wheel; a checkout has none."""


def name_of(level: str, source: Path = SOURCE) -> str:
    """The file of a level. Who edits the source in an installation gets another name, and so a library of his own."""
    return f"engine-{level}-{digest_of_source(source)}.so"


def shipped_library(level: str) -> Path | None:
    """The library for a level that came with this installation, if there is one."""
    path = FOLDER / name_of(level)
    return path if path.is_file() else None


def compile_all(folder: Path) -> list[Path]:
    """Compile the engine for every level of this machine's kind of processor into a folder; it need not run them.

    Raises:
        NativeUnavailable: there is no compiler here, or it does not know one of the levels.
        OSError: the folder cannot be written to.
    """
    compiler = find_compiler()
    made = []
    for level in targets.levels():
        made.append(folder / name_of(level))
        compile_library(compiler, SOURCE, level, made[-1], compiler.shipped_options())
    return made


def tag_of(libraries: list[Path]) -> str:
    """The tag of a wheel with these libraries: for any Python, and every Linux with their C library or a newer one.

    Of the GNU C library a library names the versions that it needs of each function; the newest of them counts. A
    library that names none was linked with another one, and is for systems like this one.
    """
    needed = [found for path in libraries for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())]
    if not needed:
        return f"py3-none-linux_{platform.machine()}"
    major, minor = max((int(major), int(minor)) for major, minor in needed)
    return f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
