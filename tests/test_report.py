"""The report is one file that needs nothing else, and its plots are pictures."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from s4gen.bench import plots as bench_plots
from s4gen.errors import UserError
from s4gen.showing import plots
from s4gen.showing.report import Code, Picture, Section, Table, Text, render, write_report

VOID = {"meta", "img"}  # elements of ours without an end tag


class Checked(HTMLParser):
    """Fails on an element that is not closed in order; collects what the document would load."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"link", "script", "iframe", "base"}
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def sections() -> list[Section]:
    curve = plots.learning_curves({"training": [(0, 8.0), (1, 3.0)], "held out": [(2, 2.7)]}, "step", "bits/dim")
    return [
        Section("Training <fast> & well", [Text('bits/dim < 1 & "good"'), Picture(curve, 'loss "curve"')]),
        Section("Speed", [Table(["way", "ms"], [["ours", "1.0"], ["<theirs>", "2.0"]], "per step"), Code("a < b")]),
    ]


def test_the_report_is_well_formed_and_loads_nothing(sections: list[Section]) -> None:
    document = render("A <report>", sections)
    checked = Checked(document)
    assert checked.loads and all(load.startswith("data:image/png;base64,") for load in checked.loads)
    assert "url(" not in document and "@import" not in document
    assert 'bits/dim < 1 & "good"' in checked.text and "<theirs>" in checked.text


def test_writing_a_report_replaces_the_old_one_and_leaves_nothing_beside_it(
    tmp_path: Path, sections: list[Section]
) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(path, "first", sections)
    write_report(path, "second", sections)
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_is_the_users_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # where a folder should be
    with pytest.raises(UserError, match=r"cannot write .*report\.html: File exists"):
        write_report(tmp_path / "file" / "report.html", "x", [])


def test_an_interrupted_write_keeps_the_old_report(
    tmp_path: Path, sections: list[Section], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_report(path, "first", sections)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match=r"disk full while writing .*report.html"):
        write_report(path, "second", sections)
    assert "<h1>first</h1>" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "png",
    [
        lambda: plots.learning_curves({}, "step", "bits/dim"),
        lambda: plots.learning_curves({"$\\frac{$": [(0, 8.0), (10, 2.0)]}, "step", "bits/dim"),
        lambda: plots.curves_over({"_a_$x_{$": [(0, 8.0), (10, 2.0)]}, "step", "bits/dim"),
        lambda: plots.learning_curves({"training": [(0, 8.0), (10, 2.0)]}, "step", "bits/dim"),
        lambda: bench_plots.panels([]),
        lambda: bench_plots.panels([bench_plots.Panel("x", "y", {}, [])]),
        lambda: bench_plots.panels(
            2 * [bench_plots.Panel("x", "y", {"ours": [(1, 1.0), (9, 1.0)], "theirs": [(1, 1.0)]}, ["ours"])]
        ),
        lambda: bench_plots.speed_bars({"ours": 1000.0, "theirs": 10.0, "others": 0.5}, ["ours"]),
    ],
)
def test_plots_are_png_files(png) -> None:  # type: ignore[no-untyped-def]
    assert png().startswith(b"\x89PNG\r\n")
