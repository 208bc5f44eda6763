"""The benchmark of the core: its rows, its table, and the growth that it fits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from s4gen import bench_core
from s4gen.apart import DiedError
from s4gen.bench_core import Case, Cost

NOTHING = Cost(math.nan, math.nan, math.nan, "its process died")


def case(part: str, method: str, L: int, H: int = 64, N: int = 64, batch: int = 1) -> Case:
    return Case(part, method, H, N, L, batch, "cpu", 1, 0.001)


def grown(method: str, exponent: float) -> list[tuple[Case, Cost]]:
    """Rows of one method whose time grows as a power of the length; at 1024 something else dominates."""
    return [
        (case("layer", method, L), Cost(1.0, 500.0 if L == 1024 else L**exponent, 10.0))
        for L in (1024, 4096, 16384, 65536)
    ]


def test_growth_is_the_exponent_of_the_longest_sweep() -> None:
    rows = grown("S4, blocks", 1.2) + grown("S4D, blocks", 0.9)
    fitted, linearithmic = bench_core.growth(rows, "layer", "S4, blocks") or (0, 0)
    assert fitted == pytest.approx(1.2, abs=1e-9)
    assert 1.05 < linearithmic < 1.15  # log L over 4096 .. 65536: 16 log 16
    rows[2] = (rows[2][0], NOTHING)
    assert bench_core.growth(rows, "layer", "S4, blocks") is None
    assert list(bench_core.growths(rows)) == ["layer: S4D, blocks"]


def test_the_table_has_ratios_to_the_materialised_kernel_growths_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [(64, L, 1) for L in (4096, 16384, 65536)]
    rows = []
    for H, L, batch in sizes:
        for part, methods in (("kernel", bench_core.KERNELS), ("layer", bench_core.LAYERS)):
            for method in methods:
                cost = Cost(1.0, L / 1024, 20.0) if method.startswith(bench_core.BASELINE) else Cost(1.0, L / 8192, 1.0)
                rows.append((case(part, method, L, H, 64, batch), NOTHING if method == "S4, Cauchy tiles" else cost))
    table = bench_core.report(rows)
    assert "H = 64, N = 64, L = 16,384, batch 1" in table
    (line,) = [line for line in table.splitlines() if line.startswith("  layer: S4, blocks") and " 8.0 " in line]
    assert line.split()[-2:] == ["0.125", "0.050"]
    assert table.count("its process died") == 3
    assert "layer: S4D, blocks: time grows as L^1.00 (L log L: L^1.10 here)" in table
    assert "kernel: S4, Cauchy tiles: time" not in table
    written = json.loads(bench_core.to_json({"cpu": "x"}, rows), parse_constant=pytest.fail)
    assert len(written["rows"]) == len(rows)
    assert {row["forward_ms"] for row in written["rows"] if row["method"] == "S4, Cauchy tiles"} == {None}
    assert written["growth"]["layer: S4, blocks"][0] == pytest.approx(1)


@pytest.mark.parametrize("part", ["kernel", "layer"])
def test_every_way_is_measured_and_gives_the_kernel_its_class_stands_for(part: str) -> None:
    """In this process, so the memory means nothing here. All kernels of S4D, and those of S4, are the same."""
    methods = bench_core.KERNELS if part == "kernel" else bench_core.LAYERS
    for method, (kind, kernel) in methods.items():
        cost = bench_core.measure(case(part, method, 64, H=4, N=8))
        assert 0 < cost.forward_ms < 1e5 and 0 < cost.forward_backward_ms < 1e5 and cost.peak_mb >= 0, method
        torch.manual_seed(0)
        layer = kind(4, bench_core.SSMConfig(d_state=8))
        if kernel is not None:
            torch.testing.assert_close(kernel(layer, 64), layer.kernel(64), rtol=1e-4, atol=1e-5)


def test_a_row_that_cannot_run_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> None:
        raise DiedError("its process died")

    monkeypatch.setattr(bench_core, "run_apart", died)
    assert bench_core.measured(case("layer", "LSSL, Krylov + FFT", 64)).note == "its process died"
    assert bench_core.measured(case("kernel", "S4, Cauchy tiles", 65536)).note == "not run: takes minutes"


def test_the_command_prints_the_table_and_writes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_core, "measured", lambda case: Cost(1.0, 2.0, 3.0))
    assert bench_core.main(["--quick", "--json", str(tmp_path / "table.json")]) == 0
    assert "H = 32, N = 16, L = 1,024, batch 2" in capsys.readouterr().out
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(rows) == len(bench_core.KERNELS) + len(bench_core.LAYERS)
