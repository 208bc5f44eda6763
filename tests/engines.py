"""The engines that every theorem about sampling is tested with."""

from __future__ import annotations

import pytest

from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.engines.native.build import library


def _here() -> list[str]:
    try:
        library()
    except NativeUnavailable:
        return ["eager"]
    return ["eager", "native"]


ENGINES_HERE = _here()

# For a few theorems, as compiling takes its time; the compiler's own warnings differ from version to version.
WITH_COMPILED = [
    *ENGINES_HERE,
    pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
]
