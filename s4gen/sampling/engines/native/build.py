"""engine.cpp compiled for this processor, once, into the user's cache folder, and loaded through ctypes.

The cache is keyed by the source and its headers, the compiler, its flags and the processor, so that a home folder
shared between machines holds one library for each kind. Two processes may build at once: each writes a file of its own
and renames it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_char_p, c_double, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

from s4gen.folders import cache_folder

SOURCE = Path(__file__).with_name("engine.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",  # both forms of a kernel must round alike
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-pthread",
)
LIBRARY_FLAGS = ("-shared", "-fPIC")

_ERROR = (c_char_p, c_uint64)
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "s4_open": (c_int, (c_void_p, c_uint64, c_void_p, *_ERROR)),
    "s4_close": (None, (c_void_p,)),
    "s4_begin": (c_int, (c_void_p, c_uint64, c_int32, c_int32, c_void_p, *_ERROR)),
    "s4_end": (None, (c_void_p,)),
    "s4_state": (c_int, (c_void_p, c_uint64, c_void_p, c_int32, *_ERROR)),
    "s4_places": (c_int, (c_void_p, c_void_p, c_int32, *_ERROR)),
    "s4_labels": (c_int, (c_void_p, c_void_p, *_ERROR)),
    "s4_advance": (
        c_int,
        (c_void_p, c_void_p, c_void_p, c_uint64, c_double, c_int64, c_double, c_double, c_void_p, *_ERROR),
    ),
    "s4_feed": (c_int, (c_void_p, c_void_p, c_void_p, *_ERROR)),
    "s4_read_bandwidth": (c_double, (c_uint64, c_int32, c_double)),
    "s4_product_rate": (c_double, (c_int32, c_double)),
}


class NativeUnavailable(Exception):  # noqa: N818 - it is a state of the machine, not somebody's error
    """There is no native engine for this model or machine; the message says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The engine, compiled if it has to be (about 5 s).

    Raises:
        NativeUnavailable: no compiler, or it failed.
    """
    compiler = find_compiler()
    path = cache_folder() / f"engine-{_key(compiler)}.so"
    try:
        native = _load(compiler, path)
    except OSError as error:
        raise NativeUnavailable(f"its library could not be written or loaded: {error}") from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(native, name)
        function.restype, function.argtypes = result, arguments
    return native


def _load(compiler: str, path: Path) -> ctypes.CDLL:
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            pass  # damaged, or of another system that shares the folder
    _compile(compiler, path)
    return ctypes.CDLL(str(path))


def find_compiler() -> str:
    """$CXX, or the first C++ compiler of the system."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise NativeUnavailable("there is no C++ compiler here; install g++ or clang++, or set CXX")


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, *LIBRARY_FLAGS, str(SOURCE), "-o", name]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NativeUnavailable(f"{compiler} failed: {first}")
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, errors="replace").stdout
    sources = [path.read_text(encoding="utf-8") for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = (*sources, compiler, version, *FLAGS, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
