"""Keep freed memory in the process on glibc: training and benchmarks allocate the same large tensors at every step.

By default glibc takes each of them from the kernel anew, page by page, zeroed. Measured on one CPU core with a model of
6 layers x 128 (batch 32, length 784, bf16): 1.95 s per step before, 1.14 s after.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc's malloc not to return memory to the kernel; does nothing with another C library."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 256 * 2**20)
