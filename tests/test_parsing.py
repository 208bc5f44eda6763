"""The one reader of JSON and the one of TOML, the bounded reader of files, and what is expected of values."""

from __future__ import annotations

import ast
import json
import math
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from mutate import RAW, mutate_json

from s4gen.errors import UserError, shortened
from s4gen.files import expected
from s4gen.files.parsing import INT64, NESTING, json_value, read_json, toml_value
from s4gen.files.reading import read_bounded

PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"

PARSERS = {"loads", "load", "safe_load"}
MAY_PARSE = {
    "files/parsing.py": "the readers themselves",
    "importing/reading.py": "YAML, which nothing else reads; its depth and size are bounded there",
    "data/text/bpe.py": "JSON that the tokenizers package has just made in this process",
    "exporting/run_torch.py": "a program of its own, which is copied beside an export and must not need s4gen",
    "exporting/run_onnx.py": "the same",
    "data/labelled/workers.py": "what the process that started this one has given it as its argument",
    "train/watch.py": "what another rank of the same run has written into the launcher's store",
    "train/ranks.py": "what rank 0 of the same run has sent",
    "train/together.py": "the recipe that rank 0 of the same run has sent",
}
"""Modules that call a parser of Python's library, and why they may."""


def calls_of_parsers(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARSERS:
            owner = ast.unparse(node.func.value)
            if owner in ("json", "tomllib", "yaml"):
                found.append(f"{owner}.{node.func.attr}")
    return found


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5, null, true, "x"]}', "[]", "0", '"\\ud83d\\ude00"', "-9223372036854775808"]
)
def test_json_is_read_as_python_reads_it(text: str) -> None:
    assert json_value(text) == json.loads(text) == json_value(text.encode())


HOSTILE = {
    "[" * 100_000: "nested more than",
    "[" * (NESTING + 1) + "]" * (NESTING + 1): "nested more than",
    '{"a":' * 5000 + "1" + "}" * 5000: "nested more than",
    str(2**63): "more than 64 bits",
    str(-(2**63) - 1): "more than 64 bits",
    "9" * 100_000: "more than 64 bits",
    "NaN": "NaN",
    "[-Infinity]": "-Infinity",
    "1e999": "too large",
    '"\\ud800"': "surrogates",
    '{"\\udc00": 1}': "surrogates",
    '"\ud800"': "surrogate",
    '{"a": 1': "delimiter",
    "": "Expecting value",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=HOSTILE[text]):
        json_value(text)


def test_brackets_inside_of_strings_are_not_nesting() -> None:
    for text in ("[" * 1000, '\\"[[' * 500, "]" * 500 + "[" * 500):
        assert json_value(json.dumps([text] * 3)) == [text] * 3


def test_the_largest_nesting_and_the_largest_numbers_are_read() -> None:
    assert json_value("[" * NESTING + "]" * NESTING)
    assert json_value(str([INT64[0], INT64[-1]])) == [INT64[0], INT64[-1]]
    assert math.isnan(json_value("NaN", finite=False))


@pytest.mark.parametrize("raw", RAW, ids=lambda text: repr(text[:20]))
def test_every_raw_value_is_read_or_refused(raw: str) -> None:
    try:
        json_value(raw)
    except ValueError as error:
        assert not isinstance(error, RecursionError)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{a = " * 3000 + "1" + "}" * 3000,
        ".".join("a" * 20_000) + " = 1",
        " . ".join("a" * 20_000) + " = 1",
        '"a".' * 20_000 + "a = 1",
        "[" + ".".join("a" * 20_000) + "]",
        f"a = {2**63}",
        "a = 0x" + "f" * 20,
        "a = " + "9" * 5000,
        "a = 1\na = 2",
        "a",
    ],
    ids=lambda text: text[:20],
)
def test_hostile_toml_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError):
        toml_value(text)


def test_toml_with_many_dots_in_values_is_read() -> None:
    numbers = [0.5] * 500
    assert toml_value(f'a = {numbers}\nb = "{"." * 500}"\n# {"." * 500}') == {"a": numbers, "b": "." * 500}


def test_a_file_is_read_only_if_it_is_regular_and_bounded(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(b"x" * 1000)
    assert read_bounded(whole, 1000) == b"x" * 1000
    with pytest.raises(UserError, match="more than 999 bytes"):
        read_bounded(whole, 999)
    for device in ("/dev/zero", "/dev/full"):
        link = tmp_path / "link"
        link.symlink_to(device)
        with pytest.raises(UserError, match="is a device"):
            read_bounded(link)
        link.unlink()
    with pytest.raises(UserError, match="is a folder"):
        read_bounded(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "nothing")


def test_a_pipe_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a pipe"):
        read_bounded(pipe)
    assert read_bounded(pipe, pipes=True) == b""


def test_a_pipe_is_read_to_its_end_where_pipes_will_do() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            for _ in range(3):
                file.write(b"x" * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert read_bounded(f"/dev/fd/{reading}", pipes=True) == b"x" * 300_000
    finally:
        writer.join()
        os.close(reading)


ROW = expected.table(
    {"step": expected.whole(1, 10), "name": expected.text(5)},
    {
        "loss": expected.optional(expected.number(0)),
        "best": expected.flag,
        "kind": expected.one_of(["a", "b"]),
        "parts": expected.items(expected.whole(), most=2),
        "more": expected.mapping(expected.number(0, 1)),
    },
)


def test_what_is_expected_is_returned() -> None:
    row = {"step": 3, "name": "x", "loss": None, "best": True, "kind": "a", "parts": [1, 2], "more": {"a": 1}}
    assert ROW(row, "") == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 11}, "step = 11: expected a whole number from 1 to 10"),
        ({"step": True}, "step = true: expected a whole number"),
        ({"step": 1.0}, "step = 1.0"),
        ({"name": "xxxxxx"}, 'name = "xxxxxx": expected a string of at most 5'),
        ({"loss": float("nan")}, "loss = nan: expected a number from 0"),
        ({"loss": "1"}, 'loss = "1"'),
        ({"best": 1}, "best = 1: expected true or false"),
        ({"kind": {}}, "kind = a table: expected one of 'a', 'b'"),
        ({"kind": "c"}, "kind"),
        ({"parts": [1, -1]}, r"parts\[1\] = -1"),
        ({"parts": [1, 1, 1]}, "parts = a list of 3 items: expected a list of 0 to 2 items"),
        ({"more": {"a": 2}}, "more.a = 2: expected a number from 0 to 1"),
        ({"parts": [1, 1, 1, 1]}, "parts = a list of 4 items: expected a list of 0 to 2 items"),
        ({"more": [1]}, "more = a list of 1 item: expected a table"),
        ({"more": []}, "more = a list of 0 items: expected a table"),
        ({"other": 1}, "other is unknown"),
    ],
)
def test_what_is_not_expected_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ROW({"step": 3, "name": "x", **change}, "")
    with pytest.raises(ValueError, match="step is missing"):
        ROW({"name": "x"}, "")


def test_300_mutations_of_a_file_are_read_or_refused_in_one_short_line(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    row = {"step": 3, "name": "x", "loss": 1.5, "best": True, "kind": "a", "parts": [1, 2], "more": {"a": 0.5}}
    refused = 0
    for seed in range(300):
        file.write_bytes(mutate_json(row, random.Random(seed)))
        try:
            found = read_json(file, lambda value: ROW(value, ""), advice="write it again")
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{file} is damaged or truncated (")
            assert str(error).endswith("; write it again") and len(str(error)) < 400 + len(str(file))
            assert str(error).isprintable()
        else:
            assert ROW(found, "") == found
    assert 200 < refused < 300


def test_messages_are_cut_in_the_middle_and_command_no_terminal() -> None:
    assert shortened("x" * 300) == "x" * 300
    cut = shortened("a" * 1000 + "z" * 1000)
    assert len(cut) == 300 and cut.startswith("aaa") and cut.endswith("zzz")
    assert str(UserError("red \x1b[31m and\nnew\x07 lines")) == "red \\x1b[31m and new\\x07 lines"


def test_the_parsers_of_pythons_library_are_called_by_the_readers_alone() -> None:
    calling = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if calls_of_parsers(path.read_text(encoding="utf-8"))
    }
    assert calling == set(MAY_PARSE)
    assert calls_of_parsers("import json\njson.loads(x)\ntomllib.load(f)\nyaml.safe_load(y)\njson.dumps(z)") == [
        "json.loads",
        "tomllib.load",
        "yaml.safe_load",
    ]


def test_no_module_imports_a_parser_under_another_name() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("json", "tomllib", "yaml"), path
            elif isinstance(node, ast.Import):
                assert not any(alias.asname for alias in node.names if alias.name in ("json", "tomllib", "yaml")), path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000 + "]" * 5000, "nested more than"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(
                f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "aliases written out",
        ),
        ("a: [1", "flow sequence"),
        ("a: !!python/object/apply:os.system [ls]", "constructor"),
        ("a: \x00", "unacceptable"),
    ],
    ids=["deep", "laughs", "broken", "code", "control"],
)
def test_hostile_yaml_is_refused_at_once(text: str, message: str) -> None:
    from s4gen.importing.reading import yaml_value

    with pytest.raises(ValueError, match=message):
        yaml_value(text)


def test_yaml_with_aliases_is_read() -> None:
    from s4gen.importing.reading import yaml_value

    assert yaml_value("a: &x {b: 1}\nc: [*x, *x]") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
