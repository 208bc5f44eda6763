"""The one way to read JSON, and the one way to read TOML, whoever wrote them.

The parsers of Python's library are trusted with nothing: texts are bounded in size and depth before they see them, and
what they return holds only what every part of s4gen can work with. Nothing else in s4gen calls those parsers.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from s4gen.errors import UserError, shortened
from s4gen.files.reading import SMALL, read_bounded

T = TypeVar("T")

NESTING = 64
"""How deep lists and tables may be nested. What s4gen writes has a depth of 9 at most."""
INT64 = range(-(2**63), 2**63)
"""Whole numbers that fit into 64 bits, as everything that is computed with must."""
HALF = "a character that is half of a pair of surrogates"
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TABLE_TWICE = re.compile(r"Cannot declare \(.*\) twice")
_DOTTED = re.compile(r"""[\w"'-]\s*+\.(?=\s*[\w"'-])""")


def json_value(content: str | bytes, most: int = SMALL, finite: bool = True, surrogates: bool = False) -> Any:
    """Return the value of a JSON text, given as a string or as bytes of UTF-8.

    Args:
        content: the text.
        most: bytes, or characters, that it may have.
        finite: whether NaN and Infinity, which are no JSON but which Python writes, are refused.
        surrogates: whether half of a pair of surrogates is let through, as in Python's form of a name of a file that is
            not UTF-8.

    Raises:
        ValueError: it is not JSON; it is larger than `most` or nested deeper than `NESTING`; it holds a whole number
            beyond 64 bits, a decimal number beyond float64, or a surrogate without its partner.
    """
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    if isinstance(content, str):
        content.encode("utf-8")  # a string of Python's may hold a surrogate; bytes of UTF-8 cannot
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    _check_depth(text)
    # NaN and Infinity reach _constant, but 1e999 reaches _float.
    value = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_refused if finite else None)
    if not surrogates and _SURROGATE.search(text):
        for inner in _walk(value):
            _check_string(inner)
    return value


def toml_value(text: str, most: int = SMALL) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ValueError: as for `json_value`. The numbers inf and nan, which are TOML, are let through.
    """
    if len(text) > most:
        raise ValueError(f"more than {most:,} bytes")
    # tomllib takes a time that grows with the cube of the parts of a dotted key.
    if any(len(_DOTTED.findall(piece)) > NESTING for piece in re.split(r"[,=\[\]{}\n]", text)):
        raise ValueError(f"a key of more than {NESTING} parts")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {NESTING} deep") from None
    except tomllib.TOMLDecodeError as error:
        words = str(error).replace("Cannot overwrite a value", "a key is given twice")
        raise ValueError(_TABLE_TWICE.sub("a table is given twice", words)) from None
    for inner in _walk(tables):
        _check_string(inner)
        if type(inner) is int and inner not in INT64:
            raise ValueError("a whole number of more than 64 bits")
    return tables


def read_json(path: Path, check: Callable[[Any], T], *, advice: str, most: int = SMALL, finite: bool = True) -> T:
    """Return what `check` makes of the value of a JSON file.

    Args:
        path: the file.
        check: what is expected of the value (see s4gen.files.expected); it raises ValueError for anything else.
        advice: what the user can do about a damaged file, as the end of a sentence.
        most: bytes that the file may have.
        finite: whether NaN and Infinity are refused.

    Raises:
        OSError: there is no such file, or it may not be read.
        UserError: the file is no JSON, or not such as is expected.
    """
    content = read_bounded(path, most)
    try:
        return check(json_value(content, most, finite))
    except ValueError as error:
        raise UserError(f"{path} is damaged or truncated ({shortened(reason(error))}); {advice}") from None


def reason(error: ValueError) -> str:
    """Return why a text was refused, without the text: a UnicodeDecodeError has all of it in its arguments."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return HALF
    return str(error)


def _check_depth(text: str) -> None:
    """Refuse a text whose lists and objects are nested too deep, before json.loads recurses into them."""
    if text.count("[") + text.count("{") <= NESTING:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        if (character := found[0]) in "[{":
            depth += 1
            if depth > NESTING:
                raise ValueError(f"nested more than {NESTING} deep")
        elif character in "]}":
            depth -= 1


def _int(digits: str) -> int:
    # 20 characters hold every 64-bit number; int() would take long for millions of digits, and refuses from 4,300 on.
    value = int(digits) if len(digits) <= 20 else None
    if value is None or value not in INT64:
        raise ValueError(f"the whole number {shortened(digits, 30)}, which has more than 64 bits")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(digits, 30)}, which is too large")
    return value


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no number")


def _walk(value: Any) -> Iterator[Any]:
    """Yield every key and value inside a value, and refuse one that is nested too deep."""
    level = [value]
    for _ in range(NESTING + 1):
        if not level:
            return
        yield from level
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    if level:
        raise ValueError(f"nested more than {NESTING} deep")


def _check_string(value: Any) -> None:
    """Refuse a string that cannot be written as UTF-8: half of a pair of surrogates."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(HALF) from None
