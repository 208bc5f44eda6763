"""The C++ compiler of this machine, and the engine's source made into a library by it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.waiting import run_visibly

SOURCE = Path(__file__).parents[1] / "sampling" / "engines" / "native" / "engine.cpp"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",  # both forms of a kernel must round alike
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-pthread",
)
LIBRARY_FLAGS = ("-shared", "-fPIC")
SHIPPED_FLAGS = ("-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-s")
"""For a library that goes to other machines: it takes along what it needs of the C++ library, and hides it."""
OLDEST_GLIBC = "2.17"
"""For which zig links such a library; other compilers link for the C library that they find."""

UNFINISHED = "engine-unfinished-"
"""How the names of files and folders of a compilation begin that are in the cache until it is done."""


class NativeUnavailable(Exception):  # noqa: N818 - it is a state of the machine, not somebody's error
    """There is no native engine for this model or machine; the message says why."""


class Interrupted(NativeUnavailable):
    """The compiler was stopped, or had no room: another target would fare no better, and the next time it may work."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called, and what it calls things."""

    command: tuple[str, ...]
    is_zig: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return "zig" if self.is_zig else self.command[0]

    def version(self) -> str:
        """Return what the compiler says of its version; another text means that it makes other code."""
        return subprocess.run([*self.command, "--version"], capture_output=True, text=True, errors="replace").stdout

    def options(self, target: str) -> list[str]:
        """Return the options that make the compiler produce code for a target of this machine's kind of processor."""
        told = targets.options(target)
        if not self.is_zig:
            return told
        # Without a word it would compile for this very processor, it knows x86-64-v3 as x86_64_v3, and a
        # library with all that is for debuggers has 4 MB.
        name = target.replace("-", "_") if target.startswith("x86-64") else target.replace("armv8-a", "generic")
        return ["-s", f"-mcpu={name}", *(option for option in told if not option.startswith(("-march=", "-mcpu=")))]

    def shipped_options(self) -> list[str]:
        """Return the options for a library that is to run on other machines of this kind."""
        return ["-target", f"{targets.kind()}-linux-gnu.{OLDEST_GLIBC}"] if self.is_zig else list(SHIPPED_FLAGS)


def find_compiler() -> Compiler:
    """$CXX, or the first C++ compiler of the system, or that of the package ziglang.

    Raises:
        NativeUnavailable: there is none.
    """
    for words in (_words_of(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]):
        if words and (found := shutil.which(words[0])):
            return Compiler((found, *words[1:]), is_zig=Path(words[0]).stem == "zig" or "ziglang" in words)
    if importlib.util.find_spec("ziglang"):
        return Compiler((sys.executable, "-m", "ziglang", "c++"), is_zig=True)
    raise NativeUnavailable("there is no C++ compiler here; install g++ or clang++, set CXX, or pip install ziglang")


def _words_of(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise NativeUnavailable(f"CXX = {command!r} is no command: {error}") from None


def sources(source: Path) -> list[Path]:
    """A source and every header beside it."""
    return [source, *sorted(source.parent.glob("*.h"))]


def digest_of(*parts: str) -> str:
    """A short name for texts, another one for others."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def digest_of_source(source: Path) -> str:
    """A short name for a source with its headers and the flags that it is compiled with, as they are now."""
    return digest_of(*(path.read_text(encoding="utf-8") for path in sources(source)), *FLAGS)


def compile_library(compiler: Compiler, source: Path, target: str, out: Path, more: Sequence[str] = ()) -> None:
    """Make a library of the source, for a target, and write it to `out`.

    Raises:
        NativeUnavailable: the compiler cannot be started or failed; the message quotes it.
        Interrupted: it was killed, or the disk is full.
    """
    command = [*compiler.command, *FLAGS, *compiler.options(target), *LIBRARY_FLAGS, *more, str(source), "-o", str(out)]
    what = "this processor" if target == targets.NATIVE else target
    try:
        done = _run(compiler, command, f"s4gen: compiling the native engine for {what}, once ...", out.parent)
    except OSError as error:
        raise NativeUnavailable(f"{compiler.name} cannot be started: {error.strerror}") from None
    said = done.stderr
    if "No space left on device" in said or "Disk quota exceeded" in said:
        raise Interrupted(f"{compiler.name} failed: there is no room on the disk")
    if done.returncode < 0 or "terminated program" in said or "internal compiler error: Killed" in said:
        raise Interrupted(f"{compiler.name} was killed while it compiled")
    if done.returncode or not out.stat().st_size:
        raise NativeUnavailable(f"{compiler.name} failed: {_first_error(said) or f'exit status {done.returncode}'}")


def _run(compiler: Compiler, command: Sequence[str], line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if not compiler.is_zig:
        return run_visibly(command, line)
    # It keeps a C++ library that it compiles itself, 100 MB in the user's home, which is needed here once.
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, ignore_cleanup_errors=True) as kept:
        return run_visibly(command, line, {**os.environ, "ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept})


def _first_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), " ".join(lines)[:200])
