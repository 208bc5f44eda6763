"""The targets that the native engine can be compiled for, and those that the processor of this machine runs.

A target is `native` (everything that this processor has), one of the levels that compilers know by name, or `baseline`
(what every processor of this kind runs). The environment variable S4GEN_TARGET chooses one.
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

_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"])
_V4 = _V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])
_LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2},
    "aarch64": {"armv8-a": frozenset()},
}
"""The levels of each kind of processor, the widest first, and what a processor needs for each, in Linux' names."""

_KINDS = {"amd64": "x86_64", "arm64": "aarch64"}
_NAMES_ON_MACS = {
    "sse3": "pni",
    "lahf": "lahf_lm",
    "lzcnt": "abm",
    "avx1.0": "avx",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}


def kind() -> str:
    """The kind of this machine's processor, by one name on all systems: x86_64, aarch64, or what the system says."""
    machine = platform.machine().lower()
    return _KINDS.get(machine, machine)


def levels() -> tuple[str, ...]:
    """The named levels of this kind of processor, the widest first; none for a kind without names here."""
    return tuple(_LEVELS.get(kind(), ()))


def known() -> tuple[str, ...]:
    """Every target that can be asked for on this kind of processor."""
    return (NATIVE, *levels(), BASELINE)


def missing(level: str) -> list[str]:
    """List the features, sorted, that this processor lacks for a level; all of them if the system names none."""
    return sorted(_LEVELS[kind()][level] - _features())


def runnable() -> tuple[str, ...]:
    """The levels that this processor runs, the widest first."""
    return tuple(level for level in levels() if not missing(level))


def wanted() -> str | None:
    """The target that S4GEN_TARGET names; None where it is not set.

    Raises:
        UserError: it names none, or one that this processor cannot run.
    """
    named = os.environ.get(VARIABLE)
    return checked(named, f"{VARIABLE} = ") if named else None


def checked(target: str, where: str = "") -> str:
    """The target itself, if it is one that this processor runs; `where` stands before it in messages.

    Raises:
        UserError: there is none of this name here, or its instructions are not this processor's: the first one of them
            would end the program without a word.
    """
    if target not in known():
        raise UserError(f"{where}{target!r} is no target on {kind()}; there are {', '.join(known())}")
    if target in levels() and (lacking := missing(target)):
        most = next(iter(runnable()), BASELINE)
        raise UserError(f"{where}{target} needs what this processor has not ({' '.join(lacking)}); choose {most}")
    return target


def in_turn(target: str) -> list[str]:
    """The target, and what can stand in for it where a compiler fails: narrower levels, and at last the baseline."""
    if target == BASELINE:
        return [BASELINE]
    here = runnable()
    below = here if target == NATIVE else here[here.index(target) + 1 :]
    return [target, *below, BASELINE]


def options(target: str) -> list[str]:
    """What GCC and Clang are told for a target of this kind of processor.

    Without `-mprefer-vector-width` Clang splits the widest vectors of AVX-512 for most processors that have them.
    """
    if target == BASELINE:
        return []
    if kind() != "x86_64":
        return ["-mcpu=native"] if target == NATIVE else [f"-march={target}"]
    return [f"-march={target}", "-mprefer-vector-width=512"]


def processor() -> str:
    """What `native` depends on: the processor's name and everything that it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {' '.join(sorted(_features()))}"
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(told)))


@functools.cache
def _features() -> frozenset[str]:
    """What the system says that this processor can do and that programs may use, in Linux' names."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return features_of_a_mac() if platform.system() == "Darwin" else frozenset()
    return features_of_cpuinfo(told)


def features_of_cpuinfo(text: str) -> frozenset[str]:
    """What every processor of a Linux machine can do, from what stands in its /proc/cpuinfo."""
    lines = [line.partition(":") for line in text.splitlines()]
    sets = [frozenset(values.split()) for name, _, values in lines if name.strip() in ("flags", "Features")]
    return frozenset.intersection(*sets) if sets else frozenset()


def features_of_a_mac() -> frozenset[str]:
    """What `sysctl` says, in Linux' names; nothing on a Mac that is no x86, where no level asks for anything."""
    keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures")
    try:
        told = subprocess.run(["sysctl", "-n", *keys], capture_output=True, text=True).stdout
    except OSError:
        return frozenset()
    return frozenset(_NAMES_ON_MACS.get(name, name) for name in told.lower().split())
