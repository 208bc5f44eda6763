"""`s4gen predict`: answers as a stream comes, the same as for the whole of it, and what is wrong with a stream."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from refusals import assert_refused_in_one_line
from tiny_predictor import CLASSES, config_of, predictor, toy_series

from s4gen import cli
from s4gen.checkpoint import save_checkpoint
from s4gen.config import Answers, PredictorConfig, SeriesLayout, TaskConfig
from s4gen.data.audio.format import AudioFormat
from s4gen.data.text import ByteTokenizer
from s4gen.models.predictor import Predictor


class Pipe:
    """Standard input that gives its bytes a few at a time, as a pipe does."""

    def __init__(self, content: bytes, at_once: int = 7) -> None:
        self.buffer = self
        self._rest, self._at_once = io.BytesIO(content), at_once

    def read1(self, n: int) -> bytes:
        return self._rest.read(min(n, self._at_once))

    def read(self, n: int = -1) -> bytes:
        return self._rest.read(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def saved(config: PredictorConfig, name: str = "model") -> Predictor:
    model = predictor(config).float()
    tokenizer = ByteTokenizer() if config.layout.kind == "text" else None
    save_checkpoint(name, model, recipe=None, metrics={}, card="card", tokenizer=tokenizer)
    return model


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["predict", "model", *arguments, "--json"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(content))


def probabilities(model: Predictor, inputs: torch.Tensor) -> dict[str, float]:
    with torch.no_grad():
        return dict(zip(CLASSES, model.answer(inputs[None])[0].double().softmax(-1).tolist(), strict=True))


def assert_alike(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """A file comes in larger blocks than a pipe, so float32 sums are made in another order; nothing else differs."""
    for line, other in zip(found, wanted, strict=True):
        assert line.pop("probabilities") == pytest.approx(other["probabilities"], abs=1e-6)
        assert line == {key: value for key, value in other.items() if key != "probabilities"}


SAMPLES = (np.random.default_rng(0).uniform(-0.5, 0.5, 403) * 32768).astype("<i2")


@pytest.mark.parametrize("reader", ["values", "tokens"])
def test_a_live_pipe_of_sound_has_the_answers_of_the_whole_clip(
    reader: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(config_of("audio", reader=reader))
    pipe(monkeypatch, SAMPLES.tobytes())
    found = lines(capsys, "--every", "100")
    assert [line["position"] for line in found] == [100, 200, 300, 400, 403]
    assert [line.get("final", False) for line in found] == [False] * 4 + [True]
    assert found[-1]["seconds"] == 403 / 800
    quantiser = AudioFormat(800).quantiser
    codes = quantiser.encode(SAMPLES.astype(np.float32) / np.float32(32768))
    read = torch.from_numpy(codes.astype(np.int64) if reader == "tokens" else quantiser.decode(codes)[:, None])
    for line in found:
        assert line["probabilities"] == pytest.approx(probabilities(model, read[: line["position"]]), abs=1e-4)
        assert line["class"] == max(line["probabilities"], key=line["probabilities"].__getitem__)
    soundfile.write("clip.wav", SAMPLES, 800, subtype="PCM_16")
    np.save("clip.npy", SAMPLES.astype(np.float32) / np.float32(32768))
    (SAMPLES.astype("<f4") / np.float32(32768)).tofile("clip.raw")
    for arguments in (["clip.wav"], ["clip.npy"], ["clip.raw", "--format", "f32le"]):
        assert_alike(lines(capsys, *arguments, "--every", "100"), found)


def test_lines_for_people_latency_and_a_plot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(config_of("audio"))
    pipe(monkeypatch, SAMPLES.tobytes())
    assert cli.main(["predict", "model", "--timing", "--plot", "p.png"]) == 0
    printed = capsys.readouterr()
    shown = printed.out.splitlines()
    assert len(shown) == 5 + 1, "ten lines for each second, and the end"
    assert shown[0].split()[:2] == ["0.100", "s"] and "ms a step)" in shown[0]
    assert shown[-1].split()[2:5] == ["in", "the", "end:"]
    assert printed.err.startswith("s4gen: 403 samples, ") and "times real time" in printed.err
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    pipe(monkeypatch, SAMPLES.tobytes())
    assert_refused_in_one_line(cli.main, ["predict", "model", "--plot", "p.png"], "p.png exists", capsys)
    assert_refused_in_one_line(cli.main, ["predict", "model", "--plot", "p.svg"], "plots are written as PNG", capsys)


def test_text_is_read_byte_by_byte(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(config_of("text"))
    text = "Größe\nand more".encode()
    pipe(monkeypatch, text)
    found = lines(capsys)
    assert [line["position"] for line in found] == [len(text)]
    Path("t.txt").write_bytes(text)
    assert_alike(lines(capsys, "t.txt"), found)
    assert found[0]["probabilities"] == pytest.approx(probabilities(model, torch.tensor(list(text))), abs=1e-4)


def test_an_image_is_read_pixel_by_pixel(capsys: pytest.CaptureFixture[str]) -> None:
    from s4gen.data.examples import values_of

    config = config_of("image")
    model = saved(config)
    image = np.random.default_rng(0).integers(256, size=(4, 5, 3)).astype(np.uint8)
    np.save("i.npy", image)
    (found,) = lines(capsys, "i.npy")
    assert found["position"] == 20
    read = torch.from_numpy(values_of(image.reshape(-1), config.layout))
    assert found["probabilities"] == pytest.approx(probabilities(model, read), abs=1e-4)
    np.save("i.npy", image.astype(int) - 1)
    assert_refused_in_one_line(cli.main, ["predict", "model", "i.npy"], "i.npy is no image: expected whole", capsys)


def forecaster() -> Predictor:
    layout = SeriesLayout(("x", "y"), (1.0, 2.0), (2.0, 4.0), ("hour", "weekday", "day", "yearday"), 12)
    base = config_of("series", "forecast", window=12)
    answers = Answers(("y",), (2.0,), (4.0,))
    task = TaskConfig("forecast", window=12, horizon=3)
    return saved(PredictorConfig(layout, base.model, base.ssm, task, answers))


def table(n: int = 30, spoil: dict[int, str] | None = None) -> bytes:
    series = toy_series()
    rows = ["date,z,y,x"]
    for i in range(n):
        x, y = series.values[i]
        rows.append(f"2020-01-{1 + i // 24:02d} {i % 24:02d}:00:00,0,{y},{x}")
    for line, text in (spoil or {}).items():
        rows[line - 1] = text
    return ("\n".join(rows) + "\n").encode()


def test_a_forecast_comes_with_every_row_once_a_window_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    from s4gen.data.labelled.times import time_features

    model = forecaster()
    Path("s.csv").write_bytes(table())
    found = lines(capsys, "s.csv")
    assert [line["position"] for line in found] == [*range(12, 31), 30]
    values = toy_series().values[:30]
    hours = np.array([f"2020-01-{1 + i // 24:02d}T{i % 24:02d}:00:00" for i in range(30)], "datetime64[s]")
    read = np.concatenate(((values - [1.0, 2.0]) / [2.0, 4.0], time_features(hours)[1]), 1).astype(np.float32)
    for line in found:
        with torch.no_grad():
            whole = model.answer(torch.from_numpy(read[: line["position"]])[None])[0] * 4 + 2
        assert line["forecast"]["y"] == pytest.approx(whole.tolist(), abs=1e-4)
    (short,) = lines(capsys, *["s.csv"], "--every", "1000")
    assert short["position"] == 30
    Path("s.csv").write_bytes(table(6))
    capsys.readouterr()
    assert cli.main(["predict", "model", "s.csv"]) == 0
    assert "the forecast is of 6 steps alone, where the model was trained on 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message", "answered"),
    [
        (b"", "standard input is empty: expected at least one step", 0),
        (b"date,z,y,x\n", "standard input is empty: expected at least one step", 0),
        (b"date,z,y\n", "has no column x, but date, z, y; its first line must hold the names", 0),
        (b"z,y,x\n1,2,3\n", "has no column date, time", 0),
        (table(1), "has one row: two are needed", 0),
        (table(30, {9: "2020-01-01 07:00:00,0,1"}), "line 9: 3 values, expected 4, as the first line has names", 7),
        (table(30, {9: "2020-01-01 07:00:00,0,,1"}), "line 9, column y: nothing is there; the answer is of", 7),
        (table(30, {9: "2020-01-01 07:00:00,0,cold,1"}), "line 9, column y: 'cold' is no number; the answer is of", 7),
        (table(30, {9: "2020-01-01 07:00:00,0,nan,1"}), "line 9, column y: nan is not a finite number", 7),
        (table(30, {9: "yesterday,0,1,1"}), "line 9: 'yesterday' is no time", 7),
        (table(30, {9: "2020-01-01 06:00:00,0,1,1"}), "line 9: the time 2020-01-01 06:00:00 is not after that", 7),
        (
            table(30, {9: "2020-01-01 09:00:00,0,1,1"}),
            "line 9: a gap in time, from 2020-01-01 06:00:00 to 2020-01-01 ",
            7,
        ),
        (table(30, {9: "2020-03-01 07:00:00,0,1,1"}), "to 2020-03-01 07:00:00, where rows are 1 h apart; the ans", 7),
        (table(30, {9: "2020-01-01 07:00:00,0,1,1e300"}), "line 9, column x: the number is too large to be stand", 7),
        (table(30, {1: "date,x,y,x"}), "has 2 columns called x: leave one of them", 0),
        (b"\xff\xfe\x00", "is no CSV file in UTF-8", 0),
    ],
)
def test_a_series_that_goes_wrong_has_the_answer_so_far_and_one_line(
    content: bytes, message: str, answered: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster()
    pipe(monkeypatch, content)
    found = lines(capsys, code=2)
    assert [line["position"] for line in found] == [answered] * bool(answered)
    pipe(monkeypatch, content)
    cli.main(["predict", "model"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s4gen: error: ")]
    assert len(errors) == 1 and message in errors[0]


def test_samples_that_end_in_the_middle_or_are_no_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(config_of("audio"))
    pipe(monkeypatch, SAMPLES.tobytes()[:-1])
    assert [line["position"] for line in lines(capsys, "--every", "500", code=2)] == [402]
    for content, format, message in (
        (SAMPLES.tobytes()[:-1], "s16le", "ends in the middle of sample 403: 1 of 2 bytes of s16le; the answer is of"),
        (np.array([0, 1, np.nan], "<f4").tobytes(), "f32le", "sample 3 is not a finite number; the answer is of those"),
        (b"", "s16le", "standard input is empty: expected at least one sample"),
        (b"no sound", "wav", "standard input"),
        (b"no array", "npy", "is no array in NumPy's format"),
    ):
        pipe(monkeypatch, content)
        assert cli.main(["predict", "model", "--format", format]) == 2
        errors = capsys.readouterr().err.splitlines()
        assert message in errors[-1] and errors[-1].startswith("s4gen: error: "), errors


def test_what_cannot_be_streamed_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    saved(config_of("audio", bidirectional=True))
    message = "model: this model reads rows in both directions (task.bidirectional = true), so it has no answer before"
    assert_refused_in_one_line(cli.main, ["predict", "model"], message, capsys)
    assert_refused_in_one_line(
        cli.main, ["predict", "fsdd-digits"], "fsdd-digits: this model reads rows in both", capsys
    )
    assert_refused_in_one_line(cli.main, ["predict", "nowhere"], "no checkpoint at nowhere", capsys)
