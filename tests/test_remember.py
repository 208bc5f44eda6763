"""A HiPPO state holds its past: the example that shows it, and the numbers behind it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import assert_refused_in_one_line

from s4gen.examples import remember
from s4gen.ssm import hippo


@pytest.mark.parametrize(
    ("measure", "bounds"),
    [  # measured: 3.8e-2, 8.4e-4; 5.0e-2, 2.0e-5; 1.4e-1, 3.8e-2; 3.9e-2, 1.8e-2
        ("legs", (5e-2, 2e-3)),
        ("legt", (7e-2, 5e-5)),
        ("lagt", (2e-1, 5e-2)),
        ("fourier", (5e-2, 2.5e-2)),
    ],
)
def test_the_past_read_back_is_nearer_the_more_state_there_is(measure: str, bounds: tuple[float, float]) -> None:
    """Relative errors over the whole span at N = 64 and 128."""
    errors = [remember.remember(measure, N).error for N in remember.SIZES]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < bounds[0], errors
    assert errors[3] < bounds[1], errors


def test_a_state_that_does_not_belong_to_the_signal_reads_nothing_back() -> None:
    """Guards the bounds above: the error of a wrong answer is of order one."""
    signal = remember.make_signal(3)
    state = remember.window_state("legt", signal.flip(0), 64, 2.0)
    age = torch.arange(remember.SAMPLES_PER_SPAN - 0.5, 0, -1, dtype=torch.float64) * (2.0 / remember.SAMPLES_PER_SPAN)
    wrong = remember.Recall(signal[-remember.SAMPLES_PER_SPAN :], hippo.basis("legt", 64, age) @ state)
    assert wrong.error > 0.3


def test_legs_remembers_polynomials_of_its_whole_past_up_to_sampling() -> None:
    """u(s) = s^3: four coefficients hold all of it. The bilinear error falls as 1/K^2 with K samples."""
    errors = []
    for samples in (200, 400, 800):
        s = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
        state = remember.whole_past_state(s**3, 8)
        errors.append((hippo.basis("legs", 8, 1 - s) @ state - s**3).abs().max().item())
    slopes = np.diff(np.log2(errors))
    assert np.all(slopes < -1.5), errors
    assert errors[-1] < 1e-4


def test_fourier_remembers_waves_that_fit_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jump between the ends of the window, so none of the slow convergence: sampling alone limits it."""
    samples, windows = 512, 12
    monkeypatch.setattr(remember, "SAMPLES_PER_SPAN", samples)
    time = (torch.arange(windows * samples, dtype=torch.float64) + 0.5) / samples
    signal = torch.cos(2 * torch.pi * 3 * time + 0.4) + torch.sin(2 * torch.pi * 5 * time)
    state = remember.window_state("fourier", signal, 16, 2.0)
    age = (windows - time[-samples:]) * 2
    recalled = remember.Recall(signal[-samples:], hippo.basis("fourier", 16, age) @ state)
    assert recalled.error < 2e-4


def test_the_signal_is_the_same_every_time_and_band_limited() -> None:
    """No power above the highest cycle but what the rectangular end of the record leaks."""
    signal = remember.make_signal(3)
    torch.rand(5)
    assert torch.equal(remember.make_signal(3), signal)
    window = torch.hann_window(len(signal), periodic=False, dtype=torch.float64) ** 2
    power = torch.fft.rfft((signal - signal.mean()) * window).abs().square()
    assert power[3 * remember.CYCLES + 8 :].sum() < 1e-8 * power.sum()
    assert power[3 * remember.CYCLES // 2 :].sum() > 1e-4 * power.sum()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remember, "SAMPLES_PER_SPAN", 128)
    monkeypatch.setattr(remember, "SIZES", (4, 8))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("measure", sorted(hippo.MEASURES))
def test_the_example_prints_falling_errors(
    measure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remember, "draw", lambda *_: b"a picture, which takes its time")
    out = tmp_path / "new" / "past.png"
    assert remember.main(["--measure", measure, "--d-state", "8", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^ +(\d+) +(\S+e-?\S+)$", printed, flags=re.MULTILINE)
    assert [int(size) for size, _ in rows] == [4, 8]
    assert f"{measure}: " in printed
    assert printed.endswith(f"written: {out}\n")


@pytest.mark.usefixtures("_quick")
def test_the_example_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "past.png"
    assert remember.main(["--d-state", "8", "-o", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.usefixtures("_quick")
def test_the_smallest_state_is_drawn_alone(tmp_path: Path) -> None:
    assert remember.main(["--d-state", "2", "-o", str(tmp_path / "a.png")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d-state", "7"], "argument --d-state: got 7, expected an even number: use 8"),
        (["--d-state", "0"], "argument --d-state: got 0, expected at least 2"),
        (["--d-state", "many"], "argument --d-state: got 'many', expected a whole number"),
        (["--measure", "chebt"], "invalid choice: 'chebt'"),
        (["-o", "past.jpg"], "past.jpg: the plot is written as PNG; use a name that ends in .png"),
        (["-o", "old.png"], "old.png exists; choose another name, or write over it with --force"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.png").write_bytes(b"mine")
    assert_refused_in_one_line(remember.main, arguments, message, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert Path("old.png").read_bytes() == b"mine"


@pytest.mark.usefixtures("_quick")
def test_an_old_picture_is_replaced_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "old.png"
    out.write_bytes(b"mine")
    assert remember.main(["--d-state", "4", "-o", str(out), "--force"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
