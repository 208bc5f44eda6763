"""The benchmark compares like with like: equal parameters, the same tokens, and a cache that changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s4gen import timing
from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.errors import UserError
from s4gen.models.density import DensityModel, ModelState
from s4gen.sampling import bench, measure
from s4gen.sampling.baselines import (
    KeyValueCache,
    PrefixAgain,
    keep_kernels,
    matched_transformer,
    mean_over_positions,
    mixers,
    parameter_count,
)
from s4gen.sampling.measure import Row, Task

LAYOUT = ImageLayout(height=4, width=6, channels=1, levels=16)


def tiny(mixer: str = "s4d") -> DensityConfig:
    model = ModelConfig(mixer=mixer, d_model=16, n_layers=2, d_ff=24, n_heads=4)
    return DensityConfig(LAYOUT, model, SSMConfig(d_state=8))


def build(config: DensityConfig) -> DensityModel:
    torch.manual_seed(0)
    return DensityModel(config).eval().requires_grad_(False)


def tokens(n: int, length: int = LAYOUT.length) -> Tensor:
    return torch.randint(LAYOUT.levels, (n, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mixer", ["s4d", "s4"])
@pytest.mark.parametrize(("d_model", "d_ff"), [(64, 128), (128, 256), (96, 0)])
def test_the_transformer_has_as_many_parameters_as_the_model(mixer: str, d_model: int, d_ff: int) -> None:
    layout = ImageLayout(28, 28, 1)
    config = DensityConfig(layout, ModelConfig(mixer=mixer, d_model=d_model, n_layers=3, d_ff=d_ff), SSMConfig())
    transformer = matched_transformer(config)
    assert transformer.model.mixer == "attention"
    assert (transformer.model.d_model, transformer.model.n_layers) == (d_model, 3)
    assert parameter_count(transformer) == pytest.approx(parameter_count(config), rel=0.03)


def test_no_other_feed_forward_width_brings_the_transformer_nearer() -> None:
    config = tiny()
    wanted, transformer = parameter_count(config), matched_transformer(config)

    def distance(change: int) -> int:
        model = dataclasses.replace(transformer.model, d_ff=transformer.model.d_ff + change)
        return abs(parameter_count(dataclasses.replace(transformer, model=model)) - wanted)

    assert distance(0) <= min(distance(-1), distance(1))


def test_heads_that_do_not_divide_the_width_are_replaced_by_fewer() -> None:
    config = dataclasses.replace(tiny(), model=ModelConfig(mixer="s4d", d_model=20, n_layers=1, n_heads=8))
    assert matched_transformer(config).model.n_heads == 5


def test_stepping_the_transformer_with_its_cache_gives_the_logits_of_the_full_pass() -> None:
    model, x = build(tiny("attention")), tokens(3)
    fed = torch.cat([torch.full((3, 1), model.bos), x[:, :-1]], dim=1)
    expected, _ = model(fed)
    state = model.initial_state(3)
    for t in range(LAYOUT.length):
        logits, state = model.step(fed[:, t], state)
        torch.testing.assert_close(logits, expected[:, t], rtol=1e-5, atol=1e-5)


def test_the_measured_cache_step_is_the_step_of_the_real_transformer() -> None:
    """With the true keys and values in its buffers, `KeyValueCache` must draw what the full pass would."""
    model, x = build(tiny("attention")), tokens(2, 10)
    _, real = model.prefill(x)
    way = KeyValueCache(model, 2, LAYOUT.length)
    for cache, block in zip(way._caches, real.blocks, strict=True):
        cache.keys[:, :, :11], cache.values[:, :, :11] = block.keys, block.values  # bos and ten tokens
    expected, _ = model.step(way._token, real)
    step = way.at(11)
    drawn = [step() for _ in range(3)]
    logits, _ = model.step(way._token, ModelState(real.place, tuple(c._replace(length=11) for c in way._caches)))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tokens, drawn[0]) for tokens in drawn[1:])


def test_running_the_prefix_again_reads_exactly_the_tokens_before_the_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, lengths = build(tiny()), []
    prefill = model.prefill

    def spy(x: Tensor) -> tuple[Tensor, ModelState]:
        lengths.append(tuple(x.shape))
        return prefill(x)

    monkeypatch.setattr(model, "prefill", spy)
    way = PrefixAgain(model, 3, LAYOUT.length)
    for position in (0, 5, LAYOUT.length - 1):
        way.at(position)()
    assert lengths == [(3, 0), (3, 5), (3, LAYOUT.length - 1)]


@pytest.mark.parametrize("mixer", ["s4d", "s4"])
def test_keeping_the_kernels_changes_no_result_and_builds_each_only_once(
    mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = build(tiny(mixer)), tokens(2, 9)
    expected, _ = model.prefill(x)
    calls = []
    for layer in mixers(model):
        plain = layer.block_maps
        monkeypatch.setattr(layer, "block_maps", lambda *sizes, plain=plain: calls.append(sizes) or plain(*sizes))
    keep_kernels(model)
    for _ in range(3):
        torch.testing.assert_close(model.prefill(x)[0], expected, rtol=0, atol=0)
    assert len(calls) == 2


def test_a_mean_over_sampled_positions_is_exact_for_a_linear_cost() -> None:
    mean, points = mean_over_positions(lambda position: 3.0 + 2.0 * position, 101, enough=lambda: True)
    assert mean == pytest.approx(3.0 + 2.0 * 50)
    assert list(points) == [0, 50, 100]
    _, all_points = mean_over_positions(lambda position: 1.0, 101, enough=lambda: False)
    assert list(all_points) == [0, 12, 25, 38, 50, 62, 75, 88, 100]
    assert mean_over_positions(lambda position: 7.0, 1, enough=lambda: False)[0] == 7.0


def test_the_median_time_of_a_sleep_is_its_length() -> None:
    median, calls = timing.median_seconds(lambda: time.sleep(0.01), torch.device("cpu"), budget=0.1)
    assert 0.01 <= median < 0.05
    assert 3 <= calls <= 10


def test_a_call_slower_than_the_budget_is_still_timed_three_times() -> None:
    calls = []
    _, timed = timing.median_seconds(lambda: calls.append(time.sleep(0.02)), torch.device("cpu"), budget=0.01)
    assert (timed, len(calls)) == (3, 4)  # one to warm up


def test_a_call_that_would_take_far_too_long_is_timed_once() -> None:
    calls = []
    median, timed = timing.median_seconds(lambda: calls.append(time.sleep(0.05)), torch.device("cpu"), budget=0.001)
    assert (timed, len(calls)) == (1, 1)
    assert median >= 0.05


def test_peak_memory_sees_what_was_allocated_and_freed_again() -> None:
    memory = timing.PeakMemory(torch.device("cpu"))
    torch.ones(20_000_000)  # 80 MB, touched
    assert 60 < memory.mb() < 200


def task(way: str, **changes: object) -> Task:
    config = matched_transformer(tiny()) if way.startswith("transformer") else tiny()
    plain = Task(way, config, None, batch=2, length=24, device="cpu", threads=1, budget=0.02, positions=(3, 40))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["eager", "conv", "transformer", "transformer-no-cache"])
def test_every_way_is_measured_in_finite_positive_numbers(way: str) -> None:
    row = measure.measure(task(way))
    assert (row.way, row.batch, row.length) == (way, 2, 24)
    assert 0 < row.ms_per_step < 1e3
    assert math.isfinite(row.peak_memory_mb) and row.start_seconds > 0
    assert row.positions_sampled[0] == 0 and row.positions_sampled[-1] <= 23
    assert row.cost_by_position and all(0 < cost < 1e3 for cost in row.cost_by_position.values())
    if way in ("eager", "transformer"):
        assert list(row.cost_by_position) == [3, 40]


def test_the_state_at_a_far_position_is_the_one_that_stepping_there_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost at a position is measured from a state read by convolution; here it is compared with stepping."""
    taken: dict[int, ModelState] = {}
    monkeypatch.setattr(measure, "_PREFILL_CHUNK", 16)
    monkeypatch.setattr(measure.torch, "randint", lambda high, size, **_: torch.zeros(size, dtype=torch.int64))
    monkeypatch.setattr(measure, "Stepping", lambda engine, recurrent, batch, state: state)
    monkeypatch.setattr(measure, "_costs_in_turn", lambda steps, *_: taken.update(steps))
    job = task("eager")
    recurrent = measure.convert(build(tiny()))
    measure._engine_at_positions(job, measure.make_engine("eager", recurrent), recurrent)
    state, token = recurrent.initial_state(2), torch.full((2,), recurrent.bos)
    for position in range(41):
        _, state = recurrent.step(token, state)
        token = torch.zeros(2, dtype=torch.int64)
        if position in taken:
            for got, want in zip(taken[position].blocks, state.blocks, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            assert torch.equal(taken[position].place, state.place)
    assert sorted(taken) == [3, 40]


def test_a_way_that_runs_out_of_memory_is_a_row_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PrefixAgain", lambda *_: torch.empty(2**60))  # what the error looks like is torch's
    row = measure.measure(task("conv"))
    assert math.isnan(row.ms_per_step)
    assert row.note.startswith("out of memory: ") and "\n" not in row.note


def test_another_error_while_measuring_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PrefixAgain", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        measure.measure(task("conv"))


def test_a_whole_run_gives_rows_ratios_a_table_and_a_plot() -> None:
    result = bench.run(
        "tiny",
        tiny(),
        batches=(2,),
        engines=("eager",),
        baselines=("conv",),
        device="cpu",
        budget=0.02,
        positions=(5, 50),
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [row.get("engine", row.get("baseline")) for row in values["rows"]] == ["eager", "conv"]
    assert all(row["peak_memory_mb"] > 0 and row["parameters"] == parameter_count(tiny()) for row in values["rows"])
    eager, conv = values["rows"]
    assert values["ratios"]["2"] == {
        "best_engine": "eager",
        "eager": 1.0,
        "conv": pytest.approx(conv["ms_per_step"] / eager["ms_per_step"]),
    }
    assert eager["tokens_per_second"] == pytest.approx(2e3 / eager["ms_per_step"])
    assert eager["images_per_second"] == pytest.approx(eager["tokens_per_second"] / 24)
    assert [point["position"] for point in values["position"][0]["points"]] == [5, 50]
    table = bench.format_table(result)
    assert "convolution again per token" in table and "read by convolution" in table
    assert result.plot().startswith(b"\x89PNG")


def test_a_row_without_numbers_is_shown_as_such_and_stays_out_of_the_ratios() -> None:
    rows = [
        Row("eager", 1, 24, 2.0, 1.0, 0.1, [0, 23]),
        Row("transformer", 1, 24, math.nan, math.nan, math.nan, [], note="its process died"),
    ]
    result = bench.BenchResult(
        "tiny", tiny(), tiny("attention"), 10, 10, timing.machine(torch.device("cpu")), ("eager",), (), rows
    )
    assert result.cells(1)[1][1:] == ["-"] * 5
    assert "its process died" in bench.format_table(result)


def test_a_process_that_dies_becomes_a_row_without_numbers(tmp_path: Path) -> None:
    row = measure.measure_apart(task("conv", config=_Deadly()))
    assert math.isnan(row.ms_per_step) and "died" in row.note


class _Deadly:
    """Ends the process that unpickles it, the way the system does when memory runs out."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        import os

        return os._exit, (9,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, "batch 0: expected at least 1"),
        ({"length": 0}, "length 0: expected at least 1"),
        ({"engines": ("warp",)}, "bench knows no engine 'warp': expected some of eager, compiled"),
        ({"baselines": ("rnn",)}, "bench knows no baseline 'rnn': expected some of conv, transformer"),
        ({"engines": (), "baselines": ()}, "there is nothing to measure"),
        ({"positions": (0,)}, "position 0: expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench.run("tiny", tiny(), **changes)  # type: ignore[arg-type]


def test_a_transformer_is_not_benchmarked_as_a_recurrent_model() -> None:
    with pytest.raises(UserError, match="this one is a Transformer"):
        bench.run("tiny", tiny("attention"))
