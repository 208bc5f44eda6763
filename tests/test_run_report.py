"""`s4gen report`: one page about any run or checkpoint, or about many, also where files are damaged or hostile."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from s4gen.cli import main
from s4gen.config import load_recipe, recipe_to_toml
from s4gen.data.audio.write import write_audio
from s4gen.reporting.records import read_record, read_records
from s4gen.reporting.samples import samples_by_step, spread
from s4gen.showing.report import Strip

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MEASURES = {"image": "bits_per_dim", "audio": "bits_per_sample", "text": "nats"}


class Page(HTMLParser):
    """What a page holds; fails on an element that is not closed in order, and on one that could load something."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.document = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.text, self.counts = "", dict.fromkeys(("svg", "img", "audio", "pre", "details"), 0)
        self.feed(self.document)
        self.close()
        assert self.open == []
        assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", self.document)
        ids = re.findall(r'\sid="([^"]*)"', self.document)
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"link", "script", "iframe", "base", "object", "embed"}
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in {"src", "href", "srcset"} or (value or "").startswith("data:"), value
            assert name != "xlink:href" or (value or "").startswith("#")
        if tag in self.counts:
            self.counts[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_run(
    out: Path, kind: str = "image", evaluations: int = 3, overrides: tuple[str, ...] = (), end: float = 2.0
) -> Path:
    """Write what a run of this kind leaves in its folder, without a checkpoint."""
    name = {"image": "mnist-small", "audio": "fsdd-small", "text": "wikitext2-small"}[kind]
    (out / "samples").mkdir(parents=True)
    (out / "recipe.toml").write_text(recipe_to_toml(load_recipe(name, overrides)), encoding="utf-8")
    measure, rows = MEASURES[kind], []
    for step in range(10, 10 * max(2, evaluations) + 1, 10):
        row = {"step": step, "epoch": step / 100, "split": "train", measure: end + 30 / step, "lr": 0.1}
        rows.append({**row, "tokens_per_second": 1234.5, "utilisation": 0.123, "seconds": 6.0 * step})
        if evaluations:
            held = {"step": step, "epoch": step / 100, "split": "validation", measure: end + 20 / step}
            rows.append({**held, "stderr": 0.0125, "seconds": 6.0 * step})
            sample = out / "samples" / f"step-{step:06d}"
            if kind == "image":
                sample.with_suffix(".png").write_bytes(PIXEL)
            elif kind == "text":
                sample.with_suffix(".txt").write_text(f"words of step {step}", encoding="utf-8")
            else:
                for clip in range(6):
                    write_audio(sample / f"00{clip}.wav", np.zeros(80), 8000)
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


@pytest.mark.parametrize(("kind", "shown"), [("image", "img"), ("audio", "audio"), ("text", "pre")])
def test_a_run_of_each_kind_has_curves_samples_speed_and_recipe(
    tmp_path: Path, kind: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", kind)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"written to {run / 'report.html'}\n"
    page = Page(run / "report.html")
    assert page.counts["svg"] == 2  # against steps and against minutes
    assert page.counts[shown] == {"img": 3, "audio": 3 * 4, "pre": 3 + 1}[shown]  # the recipe is text, too
    assert all(f"step {step}" in page.text for step in (10, 20, 30))
    for words in ("1,234.5", "12.3%", "2.667", "30 of ", MEASURES[kind].replace("_per_", "/"), "batch_size = "):
        assert words in page.text, words
    if kind != "text":
        assert "2.667 ± 0.0125" in page.text


def test_runs_side_by_side_show_how_their_recipes_differ(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", overrides=("train.batch_size=3", "model.d_model=32"))
    second = make_run(tmp_path / "b", overrides=("train.batch_size=5", "model.d_model=32"), end=1.0)
    out = tmp_path / "page.html"
    assert main(["report", str(first), str(second), "-o", str(out)]) == 0
    page = Page(out)
    assert page.counts["svg"] == 2  # both are in the same pictures
    section = page.document[page.document.index("Where the configurations differ") : page.document.index("Recipes<")]
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    assert rows == [["run", "train.batch_size"], ["a", "3"], ["b", "5"]]


def test_names_recipes_and_samples_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = make_run(tmp_path / "a<img src=x onerror=y>&$x^{", "text", overrides=(f'data.dataset="./{evil}.txt"',))
    (run / "samples" / "step-000010.txt").write_text(evil + '"><svg onload=z>', encoding="utf-8")
    other = make_run(tmp_path / "$_", "image")
    out = tmp_path / "page.html"
    assert main(["report", str(run), str(other), "-o", str(out)]) == 0
    page = Page(out)  # which refuses scripts and handlers
    assert evil in page.text and "a<img src=x onerror=y>&$x^{" in page.text and "$_" in page.text


def test_a_damaged_log_shows_what_stands_above_the_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:4], '{"step": "x"}\n', *lines[4:]]))
    assert main(["report", str(run)]) == 0
    said = f"run: {run / 'metrics.jsonl'} is damaged at line 5; what stands above it is shown"
    assert capsys.readouterr().err == f"s4gen: {said}\n"
    page = Page(run / "report.html")
    assert said in page.text and "20 of " in page.text and "30 of " not in page.text


def test_half_a_last_line_is_a_run_under_way_and_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "spl')
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().err == "" and "damaged" not in Page(run / "report.html").text


def test_a_run_before_its_first_evaluation_and_one_before_its_first_line(tmp_path: Path) -> None:
    early = make_run(tmp_path / "early", evaluations=0)
    empty = make_run(tmp_path / "empty")
    (empty / "metrics.jsonl").write_text("")
    out = tmp_path / "page.html"
    assert main(["report", str(early), str(empty), "-o", str(out)]) == 0
    text = Page(out).text
    assert "early has not been evaluated on held-out data yet." in text and "empty has logged nothing yet." in text


def test_numbers_that_are_not_finite_are_left_out_of_the_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row, value in zip(rows[-3:], (math.nan, math.inf, -math.inf), strict=True):
        row["bits_per_dim"] = value
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["report", str(run)]) == 0
    page = Page(run / "report.html")
    pictures = re.findall(r"(?s)<svg.*?</svg>", page.document)
    assert len(pictures) == 2 and not any(re.search(r"(?i)[ >](nan|-?inf)", picture) for picture in pictures)
    assert "4 bits/dim" in page.text  # the best of what is left


@pytest.mark.parametrize(
    ("break_it", "note"),
    [
        (lambda run: (run / "recipe.toml").write_text("[model\n"), "the recipe is shown as it is"),
        (lambda run: (run / "recipe.toml").write_text("[model]\nlayers_of_old = 3\n"), "the recipe is shown as it is"),
        (lambda run: (run / "recipe.toml").write_bytes(b"\xff\xfe"), "the recipe is shown as it is"),
        (lambda run: (run / "samples" / "step-000010.png").write_bytes(b"GIF89a"), "is no PNG file"),
        (lambda run: (run / "samples" / "step-000010.png").unlink(), ""),
        (lambda run: (run / "samples" / "step-000040.png").symlink_to("/dev/zero"), "is a device"),
    ],
)
def test_a_file_that_cannot_be_read_costs_the_page_only_what_stands_in_it(
    tmp_path: Path, break_it: Callable[[Path], object], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    break_it(run)
    assert main(["report", str(run)]) == 0
    page = Page(run / "report.html")
    assert note in page.text and note in capsys.readouterr().err
    assert page.counts["svg"] == 2 and page.counts["img"] in (2, 3)


def test_fifty_runs_are_one_page_of_bounded_size(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / f"run{i:02d}", overrides=(f"train.seed={i}",), end=i)) for i in range(50)]
    out = tmp_path / "page.html"
    assert main(["report", *runs, "-o", str(out)]) == 0
    page = Page(out)
    assert all(f"run{i:02d}" in page.text for i in range(50)) and "train.seed" in page.text
    assert "42 other runs" in page.text  # eight have a colour
    legend = re.search(r'<ul class="legend">.*?</ul>', page.document)
    assert legend and re.findall(r"run\d\d", legend[0]) == [f"run{i:02d}" for i in range(8)]  # the best
    assert len(page.document) < 3_000_000


def test_samples_of_a_long_run_are_evenly_spread_and_kept_within_the_budget(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=30)
    record = read_record(run)
    strip = samples_by_step(record, 10**9)[0]
    assert isinstance(strip, Strip) and len(strip.blocks) == 12
    (strip, said) = samples_by_step(record, 5 * len(PIXEL))
    assert isinstance(strip, Strip) and len(strip.blocks) == 5
    assert said.text == "5 of 30 steps with samples are shown."  # type: ignore[union-attr]
    (said,) = samples_by_step(record, len(PIXEL) - 1)
    assert said.text == "0 of 30 steps with samples are shown."  # type: ignore[union-attr]
    steps = [step for step, _ in spread(record.samples, 12)]
    assert steps[0] == 10 and steps[-1] == 300 and len(set(steps)) == 12
    assert [step for step, _ in spread(record.samples, 1)] == [300]


def test_a_shipped_checkpoint_has_its_card_its_numbers_and_its_curve(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["report", "mnist-small", "checkpoints/fsdd-small", "fsdd-digits", "-o", str(out)]) == 0
    page = Page(out)
    assert "A density model of MNIST" in page.text and "380,128" in page.text and "0.7293" in page.text
    assert page.counts["img"] == 1


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [str(make_run(tmp_path / part / "run")) for part in "ab"]
    assert [record.name for record in read_records(paths)] == paths
    assert [record.name for record in read_records([paths[0]] * 2)] == [f"{paths[0]} (1)", f"{paths[0]} (2)"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line with which a command is refused."""
    capsys.readouterr()
    assert main(["report", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "runs" / "one")
    assert "nothing does not exist: give the folder of a run" in refused(capsys, tmp_path / "nothing")
    assert "the name of a run is empty" in refused(capsys, "")
    assert "is a file: give the folder of a run or of a checkpoint" in refused(capsys, run / "metrics.jsonl")
    said = refused(capsys, tmp_path / "runs")
    assert "is neither a run nor a checkpoint" in said and f"did you mean {run}?" in said
    assert "zero byte" in refused(capsys, "a\0b")


def test_a_run_without_measurements_is_shown_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "o\x1bne")
    (run / "metrics.jsonl").unlink()
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr()
    assert "is missing or holds no measurement yet, so there are no curves" in said.err
    assert "\x1b" not in said.err + said.out


def test_where_the_page_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    assert "say where it is to be written with -o" in refused(capsys, run, other)
    assert "mnist-small is a checkpoint" in refused(capsys, "mnist-small")
    mine = tmp_path / "mine.html"
    mine.write_text("my own page")
    assert "exists; choose another name" in refused(capsys, run, "-o", mine)
    assert mine.read_text() == "my own page"
    assert main(["report", str(run), "-o", str(mine), "--force"]) == 0
    assert main(["report", str(other), "-o", str(mine)]) == 0  # an earlier page is replaced
    assert "is a folder" in refused(capsys, run, "-o", tmp_path)
    assert main(["report", str(run), "-o", str(tmp_path / "new" / "page.html")]) == 0
    assert sorted(entry.name for entry in (tmp_path / "new").iterdir()) == ["page.html"]


def test_a_report_in_its_folder_does_not_disturb_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    before = (run / "report.html").stat().st_ino
    assert main(["report", str(run)]) == 0  # once more, while the run goes on
    assert (run / "report.html").stat().st_ino != before  # replaced as a whole
    assert read_record(run).notes == []
