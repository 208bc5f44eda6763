"""The benchmark of the core: its rows, its table, and the growth that it fits."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from s4gen.bench import core
from s4gen.bench.apart import DiedError
from s4gen.bench.core import CoreMeasurement, CoreResult, CoreWorkload
from s4gen.cli import main
from s4gen.cli.output import json_text

NOTHING = CoreMeasurement(math.nan, math.nan, math.nan, "its process died")


def workload(part: str, method: str, L: int, H: int = 64, N: int = 64, batch: int = 1) -> CoreWorkload:
    return CoreWorkload(part, method, H, N, L, batch, "cpu", 1, 0.001)


def grown(method: str, exponent: float) -> list[tuple[CoreWorkload, CoreMeasurement]]:
    """Rows of one method whose time grows as a power of the length; at 1024 something else dominates."""
    return [
        (workload("layer", method, L), CoreMeasurement(1.0, 500.0 if L == 1024 else L**exponent, 10.0))
        for L in (1024, 4096, 16384, 65536)
    ]


def test_growth_is_the_exponent_of_the_longest_sweep() -> None:
    rows = grown("S4, blocks", 1.2) + grown("S4D, blocks", 0.9)
    fitted, linearithmic = CoreResult({}, rows).growth("layer", "S4, blocks") or (0, 0)
    assert fitted == pytest.approx(1.2, abs=1e-9)
    assert 1.05 < linearithmic < 1.15  # log L over 4096 .. 65536: 16 log 16
    rows[2] = (rows[2][0], NOTHING)
    assert CoreResult({}, rows).growth("layer", "S4, blocks") is None
    assert list(CoreResult({}, rows).growths()) == ["layer: S4D, blocks"]


def test_the_table_has_ratios_to_the_materialised_kernel_growths_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [(64, L, 1) for L in (4096, 16384, 65536)]
    rows = []
    for H, L, batch in sizes:
        for part, methods in (("kernel", core.KERNELS), ("layer", core.LAYERS)):
            for method in methods:
                time, memory = (L / 1024, 20.0) if method.startswith(core.BASELINE) else (L / 8192, 1.0)
                measured = NOTHING if method == "S4, Cauchy tiles" else CoreMeasurement(1.0, time, memory)
                rows.append((workload(part, method, L, H, 64, batch), measured))
    result = CoreResult({"cpu": "x", "threads": 1, "torch": "2", "device": "cpu"}, rows)
    table = result.table()
    assert "H = 64, N = 64, L = 16,384, batch 1" in table
    (line,) = [line for line in table.splitlines() if line.startswith("  layer: S4, blocks") and " 8.0 " in line]
    assert line.split()[-2:] == ["0.125", "0.050"]
    assert table.count("its process died") == 3
    assert "layer: S4D, blocks: time grows as L^1.00 (L log L: L^1.10 here)" in table
    assert "kernel: S4, Cauchy tiles: time" not in table
    written = json.loads(json_text(result.to_dict()), parse_constant=pytest.fail)
    assert len(written["rows"]) == len(rows)
    assert {row["forward_ms"] for row in written["rows"] if row["method"] == "S4, Cauchy tiles"} == {None}
    assert written["growth"]["layer: S4, blocks"][0] == pytest.approx(1)


@pytest.mark.parametrize("part", ["kernel", "layer"])
def test_every_way_is_measured_and_gives_the_kernel_its_class_stands_for(part: str) -> None:
    """In this process, so the memory means nothing here. All kernels of S4D, and those of S4, are the same."""
    methods = core.KERNELS if part == "kernel" else core.LAYERS
    for method, (kind, kernel) in methods.items():
        cost = core.measure(workload(part, method, 64, H=4, N=8))
        assert 0 < cost.forward_ms < 1e5 and 0 < cost.forward_backward_ms < 1e5 and cost.peak_mb >= 0, method
        torch.manual_seed(0)
        layer = kind(4, core.SSMConfig(d_state=8))
        if kernel is not None:
            torch.testing.assert_close(kernel(layer, 64), layer.kernel(64), rtol=1e-4, atol=1e-5)


def test_a_row_that_cannot_run_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> None:
        raise DiedError("its process died")

    monkeypatch.setattr(core, "run_apart", died)
    assert core.measure_apart(workload("layer", "LSSL, Krylov + FFT", 64)).note == "its process died"
    assert core.measure_apart(workload("kernel", "S4, Cauchy tiles", 65536)).note == "not run: takes minutes"


def test_the_command_prints_the_table_and_writes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(core, "measure_apart", lambda workload: CoreMeasurement(1.0, 2.0, math.nan))
    path = str(tmp_path / "new" / "table.json")
    assert main(["bench", "core", "--quick", "--out", path]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d threads?, torch", printed) and ", float32, on " in printed
    assert "H = 32, N = 16, L = 1,024, batch 2" in printed
    written = json.loads(Path(path).read_text(), parse_constant=pytest.fail)
    assert list(written) == ["machine", "rows", "growth"]
    assert len(written["rows"]) == len(core.KERNELS) + len(core.LAYERS)
    assert written["rows"][0]["peak_mb"] is None
    assert main(["bench", "core", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == written
    assert main(["bench", "core", "--quick", "-o", path]) == 2
    refusal = f"{path} exists; choose another name, or write over it with --force"
    assert capsys.readouterr().err == f"s4gen: error: {refusal}\n"
    assert main(["bench", "core", "--quick", "-o", path, "--force"]) == 0
