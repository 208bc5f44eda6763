"""Find this machine's C++ compiler and compile the engine's source into a shared library with it."""

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
    # Solo and batch kernels must round alike, so the source alone decides where a multiply and an add are fused.
    "-ffp-contract=off",
    # Nobody reads errno or floating-point exceptions; keeping them exact would stop loops from being vectorised.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",  # GCC's notes that wide vectors were once passed otherwise; nothing here is linked with old code
    "-pthread",
)
LIBRARY_FLAGS = ("-shared", "-fPIC")
SHIPPED_FLAGS = ("-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-s")
"""Linker flags for a library that goes to other machines.

The C++ library is linked in, since another machine may have an older one, and its symbols are not exported, since the
process may hold another C++ library too.
"""
OLDEST_GLIBC = "2.17"
"""The C library (of manylinux2014) that zig links a shipped library for; other compilers link for the one they find."""

UNFINISHED = "engine-unfinished-"
"""Prefix of the files and folders that a compilation keeps in the cache until it is done."""


class NativeUnavailable(Exception):  # noqa: N818 - it is a state of the machine, not somebody's error
    """The native engine cannot run this model or cannot be had on this machine; the message says why."""


class Interrupted(NativeUnavailable):
    """The compiler was killed or the disk was full: no narrower target would help, but the next attempt may work."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that starts it, and the spelling of its options."""

    command: tuple[str, ...]
    """Program and first arguments, such as ("/usr/bin/ccache", "g++")."""
    is_zig: bool = False

    @property
    def name(self) -> str:
        """Return the compiler's name for messages."""
        return "zig" if self.is_zig else self.command[0]

    def version(self) -> str:
        """Return what the compiler prints as its version; it is a part of the cache key of what it compiles."""
        return subprocess.run([*self.command, "--version"], capture_output=True, text=True, errors="replace").stdout

    def options(self, target: str) -> list[str]:
        """Return the options that compile for `target`, one of `targets.known()`."""
        told = targets.options(target)
        if not self.is_zig:
            return told
        # Three things differ in zig. It compiles for this very processor unless -mcpu names another; it spells
        # x86-64-v3 as x86_64_v3; and it adds debug information, which makes the library 4 MB unless -s strips it.
        name = target.replace("-", "_") if target.startswith("x86-64") else target.replace("armv8-a", "generic")
        return ["-s", f"-mcpu={name}", *(option for option in told if not option.startswith(("-march=", "-mcpu=")))]

    def shipped_options(self) -> list[str]:
        """Return further options for a library that must also run on other machines with this kind of processor."""
        return ["-target", f"{targets.kind()}-linux-gnu.{OLDEST_GLIBC}"] if self.is_zig else list(SHIPPED_FLAGS)


def find_compiler() -> Compiler:
    """Return the compiler that $CXX names, else the system's first one, else that of the Python package ziglang.

    Raises:
        NativeUnavailable: this machine has none of them, or $CXX cannot be split into words.
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
    """Return a source file and every header beside it."""
    return [source, *sorted(source.parent.glob("*.h"))]


def digest_of(*parts: str) -> str:
    """Return 16 hexadecimal digits that name these texts."""
    # Joined by a zero byte, which no text holds, so that ("ab", "c") and ("a", "bc") get different names.
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def digest_of_source(source: Path) -> str:
    """Return a digest of a source, its headers and the flags of every compilation, as they were at the first call."""
    return digest_of(*(path.read_text(encoding="utf-8") for path in sources(source)), *FLAGS)


def compile_library(compiler: Compiler, source: Path, target: str, out: Path, more: Sequence[str] = ()) -> None:
    """Compile `source` for `target` with the options `more` and write the library to `out`.

    Raises:
        NativeUnavailable: the compiler cannot be started or failed; the message quotes it.
        Interrupted: the compiler was killed, or the disk is full.
    """
    command = [*compiler.command, *FLAGS, *compiler.options(target), *LIBRARY_FLAGS, *more, str(source), "-o", str(out)]
    what = "this processor" if target == targets.NATIVE else target
    try:
        done = _run(compiler, command, f"s4gen: compiling the native engine for {what}, once ...", out.parent)
    except OSError as error:
        raise NativeUnavailable(f"{compiler.name} cannot be started: {error.strerror}") from None
    said = done.stderr
    # The driver that runs cc1plus and ld does not tell by its exit status that the disk was full or that one of them
    # was killed: its text has to be read.
    if "No space left on device" in said or "Disk quota exceeded" in said:
        raise Interrupted(f"{compiler.name} failed: there is no room on the disk")
    if done.returncode < 0 or "terminated program" in said or "internal compiler error: Killed" in said:
        raise Interrupted(f"{compiler.name} was killed while it compiled")
    if done.returncode or not out.stat().st_size:
        raise NativeUnavailable(f"{compiler.name} failed: {_first_error(said) or f'exit status {done.returncode}'}")


def _run(compiler: Compiler, command: Sequence[str], line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if not compiler.is_zig:
        return run_visibly(command, line)
    # zig compiles its own C++ library first and would keep 100 MB of it in the user's home. It is needed only once.
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, ignore_cleanup_errors=True) as kept:
        return run_visibly(command, line, {**os.environ, "ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept})


def _first_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), " ".join(lines)[:200])
