"""Know the targets that the native engine can be compiled for, and which of them this machine's processor runs.

A target is `native` (everything that this processor has), one of the levels that compilers know by name (x86-64-v3,
armv8-a), or `baseline` (what every processor of this kind runs). The environment variable S4GEN_TARGET chooses one.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

from s4gen.errors import UserError

NATIVE = "native"
BASELINE = "baseline"
VARIABLE = "S4GEN_TARGET"

# The features of the x86-64 psABI's levels, by the names of /proc/cpuinfo: "pni" is SSE3, and "abm" includes LZCNT.
_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"])
_V4 = _V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])
_LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2},
    "aarch64": {"armv8-a": frozenset()},
}
"""For each kind of processor its levels, the widest first, with the features that a level needs."""

_KINDS = {"amd64": "x86_64", "arm64": "aarch64"}
"""Names of other systems for the kinds that Linux calls x86_64 and aarch64."""
_NAMES_ON_MACS = {
    "sse3": "pni",
    "lahf": "lahf_lm",
    "lzcnt": "abm",
    "avx1.0": "avx",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
"""Features that macOS names otherwise than Linux."""


def kind() -> str:
    """Return the kind of this machine's processor: x86_64, aarch64, or whatever the system calls another one."""
    machine = platform.machine().lower()
    return _KINDS.get(machine, machine)


def levels() -> tuple[str, ...]:
    """Return the levels of this kind of processor, the widest first; an unknown kind has none."""
    return tuple(_LEVELS.get(kind(), ()))


def known() -> tuple[str, ...]:
    """Return every target that can be asked for on this kind of processor."""
    return (NATIVE, *levels(), BASELINE)


def missing(level: str) -> list[str]:
    """Return the features, sorted, that this processor lacks for a level; all of them if the system names none."""
    return sorted(_LEVELS[kind()][level] - _features())


def runnable() -> tuple[str, ...]:
    """Return the levels that this processor runs, the widest first."""
    return tuple(level for level in levels() if not missing(level))


def wanted() -> str | None:
    """Return the target that S4GEN_TARGET names, or None where it is not set.

    Raises:
        UserError: the variable names no target, or one that this processor cannot run.
    """
    named = os.environ.get(VARIABLE)
    return checked(named, f"{VARIABLE} = ") if named else None


def checked(target: str, where: str = "") -> str:
    """Return `target` if this processor runs it; `where` is put before its name in messages.

    A target is refused here because the first instruction that the processor lacks would end the program without a
    message.

    Raises:
        UserError: there is no such target, or this processor cannot run it.
    """
    if target not in known():
        raise UserError(f"{where}{target!r} is no target on {kind()}; there are {', '.join(known())}")
    if target in levels() and (lacking := missing(target)):
        most = next(iter(runnable()), BASELINE)
        raise UserError(f"{where}{target} needs what this processor lacks ({' '.join(lacking)}); choose {most}")
    return target


def in_turn(target: str) -> list[str]:
    """Return the targets to try one after another: this one, narrower levels, and at last the baseline."""
    if target == BASELINE:
        return [BASELINE]
    here = runnable()
    below = here if target == NATIVE else here[here.index(target) + 1 :]
    return [target, *below, BASELINE]


def options(target: str) -> list[str]:
    """Return the options of GCC and Clang for a target."""
    if target == BASELINE:
        return []
    if kind() != "x86_64":
        return ["-mcpu=native"] if target == NATIVE else [f"-march={target}"]
    # Left alone, Clang splits 512-bit vectors in two for most processors that have AVX-512.
    return [f"-march={target}", "-mprefer-vector-width=512"]


def processor() -> str:
    """Return the text that tells `native` code of two processors apart: model name and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {' '.join(sorted(_features()))}"
    told = ("model name", "flags", "Features", "CPU part")
    # Every core repeats the same lines; a machine with two kinds of cores keeps the lines of both.
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(told)))


@functools.cache
def _features() -> frozenset[str]:
    """Return the features that this processor has and the system lets programs use, by Linux' names."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return features_of_a_mac() if platform.system() == "Darwin" else frozenset()
    return features_of_cpuinfo(told)


def features_of_cpuinfo(text: str) -> frozenset[str]:
    """Return the features that every core of a Linux machine has, given the text of its /proc/cpuinfo."""
    lines = [line.partition(":") for line in text.splitlines()]
    sets = [frozenset(values.split()) for name, _, values in lines if name.strip() in ("flags", "Features")]
    # A thread may be moved to another core at any instruction, so a feature that one core lacks does not count.
    return frozenset.intersection(*sets) if sets else frozenset()


def features_of_a_mac() -> frozenset[str]:
    """Return the features that `sysctl` lists, by Linux' names.

    On a Mac with an ARM processor these keys do not exist and the set is empty, which armv8-a is content with.
    """
    keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures")
    try:
        told = subprocess.run(["sysctl", "-n", *keys], capture_output=True, text=True).stdout
    except OSError:
        return frozenset()
    return frozenset(_NAMES_ON_MACS.get(name, name) for name in told.lower().split())
