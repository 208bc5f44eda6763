"""The engine as a library: shipped inside the wheel, or compiled once into the user's cache folder.

The cache is keyed by target, source, compiler and flags, and for `native` by the processor, so that a home folder
shared between machines holds one library for each kind. Two processes may build at once: each writes a file of its own
and renames it. The name of a file holds a digest of what is in it, so that one that was damaged is never run.
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
from s4gen.folders import cache_folder, stranger_of
from s4gen.unfinished import remove

_ABANDONED_AFTER_SECONDS = 3600.0
"""A compilation that has not ended by then will not do so any more."""


def load(target: str | None) -> ctypes.CDLL:
    """The engine for a target; None: the widest library that came with s4gen and that this processor runs.

    Measured with AVX-512, one compiled for this very processor is no faster than that. Where none came, as in a
    checkout, `native` is compiled, once; where the compiler is missing or fails, what came with s4gen has to do.

    Raises:
        NativeUnavailable: there is neither a library nor a compiler that makes one.
    """
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
    """The library of that level, or the widest one, that came with s4gen; None where there is none that loads."""
    for level in targets.runnable() if target is None else [target]:
        if path := shipped_library(level):
            with contextlib.suppress(OSError):
                return ctypes.CDLL(str(path))
    return None


def _compiled(target: str) -> ctypes.CDLL:
    """The library of the cache, made if it is not there."""
    compiler = find_compiler()
    try:
        folder = _own_folder()
        stem = f"engine-{target}-{_key(compiler, target)}"
        return _cached(folder, stem) or ctypes.CDLL(str(_made(compiler, target, folder, stem)))
    except OSError as error:
        raise NativeUnavailable(f"its library could not be written or loaded: {error}") from None


def _own_folder() -> Path:
    """The cache, which nobody else may write to: what lies in it is run.

    Raises:
        NativeUnavailable: somebody else may.
        OSError: it can neither be found nor made.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if who := stranger_of(folder):
        raise NativeUnavailable(
            f"{folder} is not safe to run code from, {who}; set S4GEN_CACHE to a folder that only you can write to"
        )
    return folder


def _cached(folder: Path, stem: str) -> ctypes.CDLL | None:
    """The library of that name which is as it was written, loads, and is this user's; damaged ones are removed."""
    for path in folder.glob(f"{stem}-*.so"):
        if _digest(path) != path.stem.removeprefix(f"{stem}-"):
            path.unlink(missing_ok=True)
        elif not stranger_of(path):
            with contextlib.suppress(OSError):  # of another system that shares the folder
                return ctypes.CDLL(str(path))
    return None


def _made(compiler: Compiler, target: str, folder: Path, stem: str) -> Path:
    """A library in the folder for the target, or for the next one for which the compiler does not fail.

    Raises:
        NativeUnavailable: it fails for all of them; the message is that of the first.
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
            os.chmod(name, 0o755)  # whatever the umask is: see `stranger_of`
            return Path(name).replace(folder / f"{stem}-{_digest(Path(name))}.so")
        except Interrupted:
            raise
        except NativeUnavailable as error:
            failed = failed or error
        finally:
            Path(name).unlink(missing_ok=True)
    assert failed
    raise failed


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed builds left; on what is young, another process may be at work."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                remove(path)


def _key(compiler: Compiler, target: str) -> str:
    here = targets.processor() if target == targets.NATIVE else targets.kind()
    told = " ".join((*compiler.command, *compiler.options(target)))
    return digest_of(digest_of_source(SOURCE), told, compiler.version(), platform.system(), here)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
