"""The demo, made small: what it writes, and what is left when it is stopped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from s4gen import demo

SMALL = ["model.d_model=8", "model.n_layers=1", "model.d_ff=0", "ssm.d_state=4", "train.n_samples=4", "train.steps=4"]
PARTS = ["What this is", "Training, by convolution", "Converting, with a certificate", "Samples of the model trained"]


def headings(report: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", report.read_text(encoding="utf-8"))


def test_a_stopped_demo_leaves_a_report_of_what_it_has_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_measure", stop)
    monkeypatch.setattr(demo, "_sample_shipped", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, train_seconds=1.0, overrides=SMALL)
    assert [title[: len(part)] for title, part in zip(headings(tmp_path / "report.html"), PARTS, strict=True)] == PARTS
    said = capsys.readouterr().out
    assert re.search(r"before: 8\.\d+ ± \d\.\d+ bits/dim on 100 test images", said)
    assert f"stopped; the report so far: {tmp_path / 'report.html'}" in said
    assert (tmp_path / "demo-samples.png").is_file() and (tmp_path / "demo-completions.png").is_file()


@pytest.mark.slow
def test_the_whole_demo_ends_with_the_speed_and_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        demo.run(tmp_path, train_seconds=1.0, bench_seconds=0.05, overrides=SMALL)
        assert headings(tmp_path / "report.html")[-1] == "Speed"
    assert f"done: {tmp_path / 'report.html'}" in capsys.readouterr().out
