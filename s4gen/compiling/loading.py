"""Load the engine's library: the one that came in the wheel, or one compiled once into the user's cache folder.

A cached file is named after target, source, compiler, flags and, for `native`, the processor, so a home folder that
several machines share holds one library for each kind of processor. Two processes may compile at once, because each
writes to a file of its own and renames it. The name also holds a digest of the content, so a damaged file is never run.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.compiler import (
    SOURCE,
    UNFINISHED,
    Compiler,
    Interrupted,
    NativeUnavailable,
    compile_library,
    digest_of,
    digest_of_source,
    find_compiler,
)
from s4gen.compiling.shipping import shipped_library
from s4gen.files.folders import cache_folder, stranger_of
from s4gen.files.unfinished import remove

_ABANDONED_AFTER_SECONDS = 3600.0
"""Age at which an unfinished file counts as left by a killed process, far longer than any compilation."""


def load(target: str | None) -> ctypes.CDLL:
    """Return the engine's library for `target`; None asks for the widest one of this installation that runs here.

    A checkout came with no library, so there `native` is compiled once. Where the compiler is missing or fails, the
    library that came with s4gen is used instead, and one line on standard error says so.

    Raises:
        NativeUnavailable: no library came with s4gen, and none could be compiled.
    """
    # What came with s4gen is preferred: on a machine with AVX-512, -march=native measured no faster than x86-64-v4.
    if target != targets.NATIVE and (shipped := _shipped(target)):
        return shipped
    try:
        return _compiled(target or targets.NATIVE)
    except NativeUnavailable as error:
        if shipped := _shipped(None):
            level = next(level for level in targets.runnable() if shipped_library(level))
            print(f"s4gen: {error}; going on with the one for {level} that came with s4gen", file=sys.stderr)
            return shipped
        raise


def _shipped(target: str | None) -> ctypes.CDLL | None:
    """Return the library that came with s4gen for this level (None: the widest runnable); None if none loads."""
    for level in targets.runnable() if target is None else [target]:
        if path := shipped_library(level):
            with contextlib.suppress(OSError):
                return ctypes.CDLL(str(path))
    return None


def _compiled(target: str) -> ctypes.CDLL:
    """Return the library for a target from the cache, compiling it first if need be."""
    compiler = find_compiler()
    try:
        folder = _own_folder()
        stem = f"engine-{target}-{_key(compiler, target)}"
        return _cached(folder, stem) or ctypes.CDLL(str(_made(compiler, target, folder, stem)))
    except OSError as error:
        raise NativeUnavailable(f"its library could not be written or loaded: {error}") from None


def _own_folder() -> Path:
    """Return the cache folder after checking that only this user can write to it, since the code in it will be run.

    Raises:
        NativeUnavailable: somebody else could write to the folder.
        OSError: the folder can neither be found nor made.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if who := stranger_of(folder):
        raise NativeUnavailable(
            f"{folder} is not safe to run code from, {who}; set S4GEN_CACHE to a folder that only you can write to"
        )
    return folder


def _cached(folder: Path, stem: str) -> ctypes.CDLL | None:
    """Return the cached library whose name begins with `stem`, or None.

    Its content must match the digest in its name, and its owner must be this user. Damaged files are removed.
    """
    for path in folder.glob(f"{stem}-*.so"):
        if _digest(path) != path.stem.removeprefix(f"{stem}-"):
            path.unlink(missing_ok=True)
        elif not stranger_of(path):
            with contextlib.suppress(OSError):  # it was linked on another system that shares this home folder
                return ctypes.CDLL(str(path))
    return None


def _made(compiler: Compiler, target: str, folder: Path, stem: str) -> Path:
    """Compile for the target, or for the next narrower one that the compiler accepts; return the library's path.

    Raises:
        NativeUnavailable: the compiler fails for all of them; the message is that of the first failure.
        Interrupted: the compiler was killed, or the disk is full.
    """
    failed: NativeUnavailable | None = None
    _remove_abandoned(folder)
    for candidate in targets.in_turn(target):
        handle, name = tempfile.mkstemp(dir=folder, prefix=UNFINISHED, suffix=".so")
        os.close(handle)
        try:
            compile_library(compiler, SOURCE, candidate, Path(name))
            if failed:
                print(f"s4gen: {failed}; the native engine is compiled for {candidate} instead", file=sys.stderr)
            # Under a umask of 002 the linker makes the file writable for a group, and `stranger_of` would refuse it.
            os.chmod(name, 0o755)
            return Path(name).replace(folder / f"{stem}-{_digest(Path(name))}.so")
        except Interrupted:  # a narrower library would be taken from the cache ever after
            raise
        except NativeUnavailable as error:
            failed = failed or error
        finally:
            Path(name).unlink(missing_ok=True)
    assert failed
    raise failed


def _remove_abandoned(folder: Path) -> None:
    """Remove the files of killed compilations; a young file may belong to another process that is still compiling."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                remove(path)


def _key(compiler: Compiler, target: str) -> str:
    """Return a digest of everything that decides which machine code the compiler makes."""
    here = targets.processor() if target == targets.NATIVE else targets.kind()
    told = " ".join((*compiler.command, *compiler.options(target)))
    return digest_of(digest_of_source(SOURCE), told, compiler.version(), platform.system(), here)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
