"""Random numbers that are the same on every machine and with every version of numpy.

Generated data sets are a function of their seed, byte for byte. numpy promises that for the raw words of a bit
generator (NEP 19), but not for what `Generator` makes of them; so what is made of them stands here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUFFER = 4096
"""Words that are drawn at a time for those who want single numbers."""


class Draws:
    """Uniform integers from the words of PCG64, one by one or as arrays; both kinds take the words in turn."""

    def __init__(self, seed: int, stream: int = 0) -> None:
        """Begin a stream; equal (seed, stream) give equal numbers, all others independent ones."""
        self._words = np.random.PCG64(np.random.SeedSequence((seed, stream)))
        self._buffer: list[int] = []

    def array(self, below: int, size: int) -> NDArray[np.int64]:
        """Return int64 (size,) from 0 to below - 1, where below is at most 2^31.

        They are floor(w below / 2^32) for words w of 32 bits, so none is more likely than another by more than 2^-32.
        """
        words = self._words.random_raw(size) >> np.uint64(32)
        return (words * np.uint64(below) >> np.uint64(32)).astype(np.int64)

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1, as `array` does."""
        if not self._buffer:
            self._buffer = (self._words.random_raw(BUFFER) >> np.uint64(32)).tolist()
        return self._buffer.pop() * limit >> 32

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return the numbers 0 to n - 1 in random order, int64 (n,): n raw words are put in order."""
        return np.argsort(self._words.random_raw(n), kind="stable").astype(np.int64)
