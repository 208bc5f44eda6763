"""The library of the native engine, with the signatures of its entry points for ctypes."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_char_p, c_double, c_int, c_int32, c_uint64, c_void_p
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.loading import load

_ERROR = (c_char_p, c_uint64)  # a buffer for a message, and its size
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "s4_open": (c_int, (c_void_p, c_uint64, c_void_p, *_ERROR)),
    "s4_close": (None, (c_void_p,)),
    "s4_begin": (c_int, (c_void_p, c_uint64, c_int32, c_int32, c_void_p, *_ERROR)),
    "s4_end": (None, (c_void_p,)),
    "s4_state": (c_int, (c_void_p, c_uint64, c_void_p, c_int32, *_ERROR)),
    "s4_places": (c_int, (c_void_p, c_void_p, c_int32, *_ERROR)),
    "s4_labels": (c_int, (c_void_p, c_void_p, *_ERROR)),
    "s4_advance": (c_int, (c_void_p, c_void_p, c_void_p, c_uint64, c_char_p, c_uint64, c_void_p, *_ERROR)),
    "s4_feed": (c_int, (c_void_p, c_void_p, c_void_p, *_ERROR)),
    "s4_read_bandwidth": (c_double, (c_uint64, c_int32, c_double)),
    "s4_product_rate": (c_double, (c_int32, c_double)),
}


def library(target: str | None = None) -> ctypes.CDLL:
    """Return the engine for a target (see `s4gen.compiling.targets`), loaded once.

    None means the target that S4GEN_TARGET names. If it names none, this is the widest library that came with s4gen and
    that this processor runs: measured with AVX-512, one compiled for this very processor is no faster. If no library
    came, as in a checkout, it is compiled, once.

    Raises:
        UserError: there is no such target, or this processor cannot run it.
        NativeUnavailable: there is neither a library for the target nor a compiler that can make one.
    """
    return _loaded(targets.wanted() if target is None else targets.checked(target))


@functools.cache
def _loaded(target: str | None) -> ctypes.CDLL:
    native = load(target)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(native, name)
        function.restype, function.argtypes = result, arguments
    return native


def made_for(native: ctypes.CDLL) -> str:
    """Return the target that a library of `library` was compiled for: native, baseline or the name of a level."""
    name = Path(native._name).name
    return next(target for target in targets.known() if f"-{target}" in name)
