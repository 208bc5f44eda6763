"""Types of arguments for argparse; each refuses a wrong value in one sentence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from s4gen.config.names import PLURAL
from s4gen.errors import UserError
from s4gen.files.folders import user_path


def path_to_write(text: str) -> Path:
    """Return the path that a user wrote for a result that goes to a file or a folder; it is an argparse type.

    In many programs - means standard output, so a file or folder of that name would surprise.
    """
    if text == "-":
        raise argparse.ArgumentTypeError("-: this is not written to standard output; give it a name")
    return user_path(text)


def whole(least: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least}")
        return value

    return parse


def number(expected: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """Return an argparse type for finite numbers that `accept` accepts; `expected` says in words which these are."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accept(value)):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return value

    return parse


def refuse_foreign(option: str, kinds: Sequence[str], kind: str, model: str) -> None:
    """Refuse an option that is for models of other kinds than this one.

    Raises:
        UserError: `kind` is not among `kinds`.
    """
    if kind not in kinds:
        names = " and ".join(PLURAL[known] for known in kinds)
        raise UserError(f"{option} is for {names}, and {model} is a model of {PLURAL[kind]}; leave it out")
