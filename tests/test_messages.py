"""Messages name what is at fault and what to do, in plain words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from s4gen import demo
from s4gen.cli import main
from s4gen.errors import UserError
from s4gen.files.parsing import toml_value
from s4gen.showing.words import plural, with_error

Capture = pytest.CaptureFixture[str]


def refusal(capsys: Capture, *arguments: str) -> str:
    """Return the one line by which a command refuses its arguments."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("s4gen: error: ").strip()


def test_numbers_agree_with_their_nouns() -> None:
    assert [plural(n, "clip") for n in (0, 1, 2, 1000)] == ["0 clips", "1 clip", "2 clips", "1,000 clips"]


def test_an_unknown_error_is_left_out() -> None:
    assert with_error(1.23456, 0.5) == "1.2346 ± 0.5000"
    assert with_error(1.23456, float("nan")) == "1.2346"


def test_one_sequence_has_no_error(capsys: Capture) -> None:
    assert main(["eval", "mnist-small", "--dataset", "mnist-mini", "--limit", "1"]) == 0
    assert re.search(r"mnist-mini test: \d\.\d{4} bits/dim \(1 image, ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("info", "mnist-small", "--jsn"), "unrecognized arguments: --jsn (see s4gen info -h)"),
        (("bench", "core", "--batch", "1"), "unrecognized arguments: --batch 1 (see s4gen bench core -h)"),
        (("bench", "mnist-small", "--quick"), "unrecognized arguments: --quick (see s4gen bench -h)"),
        (("train", "mnist-small", "--set", "model.scan=row"), 'expected a list of strings, such as ["row"]'),
        (
            ("train", "mnist-small", "--set", "model.mixer=attention", "model.taps=false"),
            "(model.mixer is from --set m",
        ),
        (("sample", "mnist-small", "-o", "a.txt"), "use a name that ends in .png, or a folder"),
        (("eval", "mnist-small", "--dataset", "./foo.txt"), "./foo.txt is text, and "),
        (("eval", "mnist-small", "--dataset", "audio:x"), "audio:x is sound, and "),
        (("import", "README.md", "out", "--config", "nosuch.yaml"), "nosuch.yaml: there is no such file"),
    ],
)
def test_a_refusal_says_what_to_do(
    arguments: tuple[str, ...], expected: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# No weights")
    assert expected in refusal(capsys, *arguments)


def test_a_text_is_no_file_of_pytorch(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("# No weights")
    line = refusal(capsys, "import", str(tmp_path / "notes.pt"), str(tmp_path / "out"))
    assert line == f"{tmp_path / 'notes.pt'} is no file of PyTorch; give a .pt or a .ckpt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\na = 2\nb = 3\n", "a key is given twice (at line 2"),
        ("[a]\nb = 1\n[a]\n", "a table is given twice (at line 3"),
    ],
)
def test_what_is_given_twice_is_said_so(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        toml_value(text)


def test_a_demo_replaces_nothing_but_a_demo(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[train]")
    with pytest.raises(UserError, match="holds files that are of no earlier demo"):
        demo.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    with pytest.raises(UserError, match=r"recipe\.toml is a file, and the demo needs a folder"):
        demo.run(tmp_path / "recipe.toml")
    (tmp_path / "report.html").write_text("<title>another report</title>")
    with pytest.raises(UserError, match="of no earlier demo"):
        demo.check_folder(tmp_path)
    demo.write_report(tmp_path / "report.html", demo.TITLE, [])
    demo.check_folder(tmp_path)


def test_a_demo_that_cannot_write_promises_no_report(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no room")

    monkeypatch.setattr(demo, "write_report", fail)
    with pytest.raises(UserError, match="no room"):
        demo.run(tmp_path / "new")
    assert "the report so far" not in capsys.readouterr().out
