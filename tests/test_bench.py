"""The benchmark compares like with like: equal parameters, the same tokens, and a cache that changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from s4gen.bench import (
    baselines,
    cached_transformer,
    generation,
    limits,
    loss,
    measure,
    measure_cached,
    timed_generation,
)
from s4gen.bench import plots as bench_plots
from s4gen.bench.apart import DiedError
from s4gen.bench.baselines import (
    PrefixAgain,
    input_lengths,
    matched_transformer,
    mean_over_positions,
    parameter_count,
)
from s4gen.bench.cached_transformer import CachedTransformer, separate_caches
from s4gen.bench.instruments import PeakMemory, machine, median_seconds
from s4gen.bench.loss import Loss, loss_of
from s4gen.bench.plots import Panel
from s4gen.bench.result import GenerationResult, cells
from s4gen.bench.roofline import Limit, transformer_work
from s4gen.bench.timed_generation import TimedGeneration, ms_in_turn, states_at, turn_of
from s4gen.bench.ways import ENGINES
from s4gen.bench.workload import GenerationMeasurement, GenerationWorkload
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.kept_kernels import keep_kernels, ssm_layers
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.randomness import draw

LAYOUT = ImageLayout(height=4, width=6, channels=1, levels=16)


def tiny(mixer: str = "s4d") -> DensityConfig:
    model = ModelConfig(mixer=mixer, d_model=16, n_layers=2, d_ff=24, n_heads=4)
    return DensityConfig(LAYOUT, model, SSMConfig(d_state=8))


def build(config: DensityConfig) -> DensityModel:
    torch.manual_seed(0)
    return build_model(config).eval().requires_grad_(False)


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


def test_the_lean_step_draws_and_remembers_what_the_real_transformer_would() -> None:
    """With the true keys and values in its cache, the measured step must be the step of the model."""
    model, x = build(tiny("attention")), tokens(64, 10)
    _, real = model.prefill(x)  # bos and ten tokens
    way = CachedTransformer(model, 64, LAYOUT.length)
    for cache, state in zip(way.cache, real.blocks, strict=True):
        cache[0, :, :, :11], cache[1, :, :, :11] = state.keys, state.values
    step = way.at(11)
    logits, after = model.step(way._token, real)
    for _ in range(2):
        assert torch.equal(step(), draw(logits, way._u))
        for cache, state in zip(way.cache, after.blocks, strict=True):
            torch.testing.assert_close(cache[0, :, :, :12], state.keys[:, :, :12], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(cache[1, :, :, :12], state.values[:, :, :12], rtol=1e-5, atol=1e-5)


def test_both_forms_of_attention_are_the_real_one() -> None:
    query, key, value = torch.randn(3, 2, 4, 8)
    keys, values = torch.randn(2, 2, 4, 19, 8)
    every = (torch.cat((past, now.unsqueeze(2)), dim=2) for past, now in ((keys, key), (values, value)))
    expected = scaled_dot_product_attention(query.unsqueeze(2), *every).squeeze(2)
    for attend in (cached_transformer.attend_by_products, cached_transformer.attend_by_loops):
        torch.testing.assert_close(attend(query, key, value, keys, values), expected)
        rounded = attend(*(x.bfloat16() for x in (query, key, value, keys, values)))
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_step_is_the_plain_one_at_every_position(dtype: torch.dtype) -> None:
    plain = CachedTransformer(build(tiny("attention")).to(dtype), 2, LAYOUT.length)
    plain.cache.normal_()
    with torch.inference_mode():
        compiled = plain.compiled(11)
        for position in (2, 3, 11, 23):
            tokens = plain.at(position)()
            expected = plain.cache[..., position, :].clone()
            plain.cache[..., position, :] = 0
            again = compiled.at(position)()
            close = 1e-4 if dtype == torch.float32 else 0.1
            torch.testing.assert_close(plain.cache[..., position, :], expected, rtol=close, atol=close)
            if dtype == torch.float32:
                assert torch.equal(again, tokens)


def test_layers_share_caches_only_where_they_would_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_transformer, "LARGEST_CACHE", 1000)
    assert [separate_caches(8, size) for size in (1, 125, 126, 333, 334, 999, 5000)] == [8, 8, 7, 3, 2, 1, 1]
    model = build(tiny("attention"))
    way = CachedTransformer(model, 1, 24)
    assert len(way.cache) == 1
    assert way.bytes_for(24) == 2 * way.cache.nbytes == 2 * 2 * 24 * 16 * 4
    assert way.at(20)().shape == (1,)


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


def test_a_batch_of_long_sequences_goes_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of sound, 64 times, would take many GB."""
    drawn = []
    for room in (1 << 30, 4 * 12 * 64 * 2):  # two rows of 12 tokens
        torch.manual_seed(1)
        monkeypatch.setattr(baselines, "_ROOM", room)
        way = PrefixAgain(build(tiny()), 5, LAYOUT.length)
        drawn.append((way.at(12)(), way._rows(12), way._rows(0)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert [rows for _, rows, _ in drawn] == [(1 << 30) // (4 * 12 * 64), 2] and drawn[0][2] > 5


@pytest.mark.parametrize("mixer", ["s4d", "s4", "h3"])
def test_keeping_the_kernels_changes_no_result_and_builds_each_only_once(
    mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = build(tiny(mixer)), tokens(2, 9)
    expected, _ = model.prefill(x)
    calls = []
    for layer in ssm_layers(model):
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
    median, calls = median_seconds(lambda: time.sleep(0.01), torch.device("cpu"), budget=0.1)
    assert 0.01 <= median < 0.05
    assert 3 <= calls <= 10


def test_a_call_slower_than_the_budget_is_still_timed_three_times() -> None:
    calls = []
    _, timed = median_seconds(lambda: calls.append(time.sleep(0.02)), torch.device("cpu"), budget=0.01)
    assert (timed, len(calls)) == (3, 4)  # one to warm up


def test_a_call_that_would_take_far_too_long_is_timed_once() -> None:
    calls = []
    median, timed = median_seconds(lambda: calls.append(time.sleep(0.05)), torch.device("cpu"), budget=0.001)
    assert (timed, len(calls)) == (1, 1)
    assert median >= 0.05


def test_peak_memory_sees_what_was_allocated_and_freed_again() -> None:
    memory = PeakMemory(torch.device("cpu"))
    torch.ones(100_000_000)  # 400 MB, touched; some of it may be memory that an earlier test gave back
    assert 200 < memory.mb() < 600


def workload(way: str, **changes: object) -> GenerationWorkload:
    config = matched_transformer(tiny()) if way.startswith("transformer") else tiny()
    plain = GenerationWorkload(way, config, None, 2, (24,), "cpu", 1, 0.02, positions=(3, 40), compiled=False)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["eager", "native", "native-int8", "conv", "transformer", "transformer-no-cache"])
def test_every_way_is_measured_in_finite_positive_numbers(way: str) -> None:
    (row,) = measure.measure(workload(way, loss=True))
    assert (row.way, row.batch, row.length) == (way, 2, 24)
    assert 0 < row.ms_per_step < 1e3
    assert math.isfinite(row.peak_memory_mb) and row.start_seconds > 0
    assert row.positions_sampled[0] == 0 and row.positions_sampled[-1] <= 23
    assert row.cost_by_position and all(0 < cost < 1e3 for cost in row.cost_by_position.values())
    if not way.endswith(("conv", "no-cache")):
        assert list(row.cost_by_position) == [3, 40]
    assert (row.loss is not None) == (way == "native-int8")


def test_a_transformer_with_a_cache_gives_a_row_for_each_length() -> None:
    rows = measure.measure(workload("transformer", lengths=(8, 24), positions=()))
    assert [(row.length, row.positions_sampled[-1]) for row in rows] == [(8, 7), (24, 23)]
    assert all(0 < row.ms_per_step < 1e3 for row in rows)
    config = workload("transformer").config.model
    more = 2 * 4 * config.n_layers * config.d_model * 2 * (24 - 8) / 1e6
    assert rows[1].peak_memory_mb - rows[0].peak_memory_mb == pytest.approx(more)


def test_a_length_whose_cache_is_too_large_is_a_row_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_cached, "LARGEST_CACHE", 2 * 4 * 2 * 16 * 10)  # ten places of one layer
    short, long = measure.measure(workload("transformer", lengths=(8, 24)))
    assert short.ms_per_step > 0 and list(short.cost_by_position) == [3]
    assert math.isnan(long.ms_per_step) and long.note.startswith("not measured at length 24: the cache of one layer")
    (alone,) = measure.measure(workload("transformer", lengths=(24,)))
    assert math.isnan(alone.ms_per_step)


def test_the_compiled_transformer_that_fails_or_is_slower_is_not_the_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nand more")

    (plain,) = measure.measure(workload("transformer", positions=()))
    assert plain.note == "not compiled"
    monkeypatch.setattr(torch, "compile", lambda step, **_: no_compiler)
    (row,) = measure.measure(workload("transformer", positions=(), compiled=True))
    assert row.ms_per_step > 0 and row.note == "torch.compile failed: no compiler"
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    for plain_ms, compiled_ms, chosen in ((2.0, 3.0, "eager"), (3.0, 2.0, "compiled")):
        monkeypatch.setattr(
            measure_cached, "ms_in_turn", lambda *_, times=(plain_ms, compiled_ms): dict(enumerate(times))
        )
        (row,) = measure.measure(workload("transformer", positions=(), compiled=True))
        assert row.note == f"{chosen} ({compiled_ms:g} ms compiled, {plain_ms:g} ms eager at position 12)"


def test_an_engine_that_is_not_there_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """make_engine goes on with the eager engine; the benchmark must not show that under the other's name."""

    def make(name: str, *args: object) -> object:
        print("s4gen: no native engine (no compiler), going on with the eager engine", file=sys.stderr)
        return make_engine("eager", *args)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "make_engine", make)
    (row,) = measure.measure(workload("native"))
    assert math.isnan(row.ms_per_step) and not row.cost_by_position
    assert row.note == "no native engine (no compiler)"


def test_stepping_draws_what_the_engine_draws_and_counts_the_steps() -> None:
    recurrent = convert(build(tiny()))
    steps = TimedGeneration(make_engine("eager", recurrent), recurrent.initial_state(4), recurrent.bos)
    steps(3)
    steps.turn()
    assert steps.taken == 4
    assert steps.chunk(torch.device("cpu"), 40) in range(1, 11)
    assert steps.chunk(torch.device("cpu"), 1) == 1


def test_steps_of_several_time_scales_come_in_whole_turns() -> None:
    """What they cost in the mean must not depend on where a turn was cut."""
    recurrent = convert(build(tiny_audio()))
    period = turn_of(tiny_audio())
    steps = TimedGeneration(make_engine("eager", recurrent), recurrent.initial_state(2), recurrent.bos, period)
    steps.turn()
    assert steps.taken == period == 6
    assert steps.chunk(torch.device("cpu"), 400) % 6 == 0 and steps.chunk(torch.device("cpu"), 1) == 6
    asked: list[int] = []
    ms_in_turn({1: asked.append}, torch.device("cpu"), 0.0, period)
    assert len(asked) >= 5 and all(n % 6 == 0 for n in asked)


def test_the_states_at_far_positions_are_those_that_stepping_there_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost at a position is measured from a state read by convolution; here it is compared with stepping."""
    monkeypatch.setattr(timed_generation, "TOKENS_AT_A_TIME", 16)
    monkeypatch.setattr(timed_generation.torch, "randint", lambda high, size, **_: torch.zeros(size, dtype=torch.int64))
    recurrent = convert(build(tiny()))
    found = states_at(recurrent, 2, (40, 3))
    state, token = recurrent.initial_state(2), torch.full((2,), recurrent.bos)
    for position in range(41):
        _, state = recurrent.step(token, state)
        token = torch.zeros(2, dtype=torch.int64)
        if position in found:
            for got, want in zip(found[position].blocks, state.blocks, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            assert torch.equal(found[position].position, state.position)
    assert sorted(found) == [3, 40]


def test_ways_that_take_turns_are_each_timed_per_step() -> None:
    ways = {1: lambda n: time.sleep(0.01 * n), 2: lambda n: time.sleep(0.001 * n)}
    costs = ms_in_turn(ways, torch.device("cpu"), 0.1)
    assert 10 <= costs[1] < 50 and 1 <= costs[2] < 9


def test_a_way_that_runs_out_of_memory_is_a_row_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PrefixAgain", lambda *_: torch.empty(2**60))  # what the error looks like is torch's
    (row,) = measure.measure(workload("conv"))
    assert math.isnan(row.ms_per_step)
    assert row.note.startswith("out of memory: ") and "\n" not in row.note


def test_another_error_while_measuring_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PrefixAgain", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        measure.measure(workload("conv"))


def test_a_prefix_so_long_that_it_takes_minutes_is_run_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Slow:
        def __init__(self, *_: object) -> None:
            pass

        def at(self, position: int) -> Callable[[], None]:
            return lambda: (calls.append(position), time.sleep(0.03 if position == 23 else 0.0))[1]

    monkeypatch.setattr(measure, "PrefixAgain", Slow)
    (row,) = measure.measure(workload("transformer-no-cache", budget=0.002))
    assert calls.count(23) == 1
    assert row.cost_by_position[23] >= 30


def test_a_row_is_measured_in_a_process_of_its_own() -> None:
    (row,) = measure.measure_apart(workload("eager", positions=()))
    assert 0 < row.ms_per_step < 1e3 and row.note == ""


def test_a_whole_run_gives_rows_ratios_limits_a_table_and_a_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "measure_apart", measure.measure)
    monkeypatch.setattr(generation, "limits_apart", limits.limits)
    result = generation.run(
        "tiny",
        tiny(),
        batches=(2,),
        lengths=(24, 48),
        engines=("eager", "native"),
        baselines=("conv", "transformer"),
        device="cpu",
        budget=0.02,
        positions=(5, 50),
        compiled_transformer=False,
    )
    values = result.to_dict()
    json.dumps(values)
    rows = values["rows"]
    names = ["eager", "native", "conv", "transformer", "transformer", "transformer-no-cache"]
    assert [row.get("engine", row.get("baseline")) for row in rows] == names
    assert [row["length"] for row in rows] == [24, 24, 24, 24, 48, 24]
    counts = [parameter_count(result.transformer if "transformer" in name else tiny()) for name in names]
    assert [row["parameters"] for row in rows] == counts
    for row in rows:
        assert row["peak_memory_mb"] >= 0
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * 1e3 / row["ms_per_step"])
        assert row["images_per_second"] == pytest.approx(row["tokens_per_second"] / 24)
        if row.get("baseline") in ("conv", "transformer-no-cache"):
            assert row["limit"] is None and math.isnan(row["fraction_of_limit"])
        else:
            assert row["limit"]["limit_ms"] > 0
            assert row["fraction_of_limit"] == pytest.approx(row["limit"]["limit_ms"] / row["ms_per_step"])
    best = min(rows[:2], key=lambda row: row["ms_per_step"])
    ratios = values["ratios"]["48"]["2"]
    assert ratios["best_engine"] == best["engine"] and list(ratios) == ["best_engine", "eager", "native", "transformer"]
    assert ratios["transformer"] == pytest.approx(rows[4]["ms_per_step"] / best["ms_per_step"])
    assert values["ratios"]["24"]["2"]["conv"] == pytest.approx(rows[2]["ms_per_step"] / best["ms_per_step"])
    assert [point["position"] for point in values["position"][0]["points"]] == [5, 50]
    table = result.table()
    for words in (
        "convolution again per token",
        "Transformer, KV cache, length 48",
        "read by convolution",
        "of limit",
        "limit, recurrent, fp32 weights: ",
        "batch 2, Transformer, KV cache: not compiled",
    ):
        assert words in table
    assert bench_plots.plot(result).startswith(b"\x89PNG")


def tiny_text() -> DensityConfig:
    model = ModelConfig(
        mixer="s4d", mixers_per_block=2, d_model=16, n_layers=1, d_ff=24, n_heads=4, window=9, cutoffs=(10, 30)
    )
    return DensityConfig(TextLayout(60, 0, length=20), model, SSMConfig(d_state=8))


def test_the_transformer_of_a_text_model_is_as_large_and_sees_everything() -> None:
    transformer = matched_transformer(tiny_text())
    assert (transformer.model.window, transformer.model.mixers_per_block) == (0, 2)
    assert parameter_count(transformer) == pytest.approx(parameter_count(tiny_text()), rel=0.03)
    model = build(transformer)
    kept = transformer_work(model, 1000, "fp32").kept
    assert kept == 4 * 2 * 2 * 16 * 500, "two layers of keys and values, half of the length on average"


def test_a_run_on_text_counts_tokens_and_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "measure_apart", measure.measure)
    monkeypatch.setattr(generation, "limits_apart", limits.limits)
    result = generation.run(
        "words",
        tiny_text(),
        batches=(2,),
        engines=("eager",),
        baselines=("conv", "transformer"),
        device="cpu",
        budget=0.02,
        positions=(5,),
        compiled_transformer=False,
    )
    rows = result.to_dict()["rows"]
    assert all(row["tokens_per_second"] > 0 and "images_per_second" not in row for row in rows)
    table = result.table()
    assert "words: s4d, 1 layer of 2, d_model 16, " in table and "60 different tokens" in table
    assert "images" not in table
    header, *others = (line.split() for line in table.splitlines() if line.startswith(("batch 2 ", "recurrent, eager")))
    assert header[2:5] == ["ms/step", "tokens/s", "peak"] and len(others[0]) == 7


def test_what_an_engine_loses_on_text_is_in_bits_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not depend on how many logits are made at a time."""
    recurrent = convert(build(tiny_text()))
    engine = make_engine("eager", recurrent)
    whole = loss_of(recurrent, engine, n=3, length=19)
    monkeypatch.setattr(loss, "_LOGITS_AT_A_TIME", 3 * 60 * 4)
    parts = loss_of(recurrent, engine, n=3, length=19)
    assert "bits/token (57 of the model's own tokens)" in str(whole)
    assert whole.bits_per_dim == pytest.approx(0, abs=1e-6) == pytest.approx(parts.bits_per_dim, abs=1e-6)


def tiny_audio() -> DensityConfig:
    model = ModelConfig("s4d", d_model=8, n_layers=2, d_ff=12, n_heads=4, pool=(2, 3))
    return DensityConfig(AudioLayout(120, bits=4, classes=("a", "b")), model, SSMConfig(d_state=4))


def test_the_transformer_of_a_multi_scale_stack_is_one_level_of_its_size() -> None:
    transformer = matched_transformer(tiny_audio())
    assert (transformer.model.pool, transformer.model.d_model, transformer.model.n_layers) == ((), 8, 2)
    assert parameter_count(transformer) == pytest.approx(parameter_count(tiny_audio()), rel=0.03)


def test_every_sequence_layer_of_a_multi_scale_stack_is_found_with_its_length() -> None:
    model = build(tiny_audio())
    by_length: dict[int, list[int]] = {}
    for mixer, inputs in zip(ssm_layers(model), input_lengths(model, 12), strict=True):
        by_length.setdefault(inputs, []).append(len(mixer.D))
    assert by_length == {12: [8, 8], 6: [16, 16], 2: [32, 32]}
    expected, _ = model.prefill(tokens(2, 20))
    keep_kernels(model)
    torch.testing.assert_close(model.prefill(tokens(2, 20))[0], expected, rtol=0, atol=0)


def tiny_pixels() -> DensityConfig:
    model = ModelConfig(
        d_model=16, n_layers=2, d_ff=24, n_heads=4, whole_pixels=True, taps=True, scan=("row", "column"), head="mixture"
    )
    return DensityConfig(ImageLayout(5, 4, 3, levels=16), model, SSMConfig(d_state=4, init="lin"))


def test_the_transformer_of_whole_pixels_reads_their_values() -> None:
    transformer = matched_transformer(tiny_pixels())
    assert (transformer.model.whole_pixels, transformer.model.d_model, transformer.model.n_layers) == (False, 16, 2)
    assert parameter_count(transformer) == pytest.approx(parameter_count(tiny_pixels()), rel=0.03)


def test_a_layer_along_rows_or_columns_reads_no_more_at_a_time() -> None:
    assert input_lengths(build(tiny_pixels()), 60) == [4, 5]
    assert input_lengths(build(tiny_pixels()), 7) == [2, 2]


def test_a_run_on_whole_pixels_measures_whole_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "measure_apart", measure.measure)
    monkeypatch.setattr(generation, "limits_apart", limits.limits)
    assert turn_of(tiny_pixels()) == 3
    result = generation.run(
        "picture",
        tiny_pixels(),
        batches=(2,),
        engines=("eager",),
        baselines=("conv", "transformer"),
        device="cpu",
        budget=0.02,
        positions=(6,),
        compiled_transformer=False,
    )
    rows = result.to_dict()["rows"]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert 0 < result.fraction(result.rows[0]) < 1
    assert "2 layers on whole pixels, mixture head, d_model 16" in result.table()


def test_a_run_on_sound_counts_seconds_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "measure_apart", measure.measure)
    monkeypatch.setattr(generation, "limits_apart", limits.limits)
    result = generation.run(
        "digits",
        tiny_audio(),
        batches=(1, 2),
        engines=("eager", "native-int8"),
        baselines=("conv", "transformer"),
        device="cpu",
        budget=0.02,
        positions=(5,),
        compiled_transformer=False,
    )
    for row in result.to_dict()["rows"]:
        assert row["audio_seconds_per_second"] == pytest.approx(row["tokens_per_second"] / 120)
        assert row["real_time_factor"] == pytest.approx(1e3 / row["ms_per_step"] / 120)
        assert "images_per_second" not in row
        assert (row["limit"] is None) == (row.get("baseline") in ("conv", "transformer-no-cache"))
    table = result.table()
    assert "digits: s4d, 2 layers, pool 2 3, d_model 8, " in table and "120 samples per second" in table
    headers = [line.split("  ") for line in table.splitlines() if line.startswith("batch") and "peak MB" in line]
    assert ["x real time" in headers[0], "s of sound/s" in headers[1]] == [True, True]
    assert "bits/sample (960 of the model's own tokens)" in table


def test_the_plot_has_a_panel_for_everything_that_was_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Panel] = []
    monkeypatch.setattr(bench_plots, "panels", lambda panels: shown.extend(panels) or b"")
    bench_plots.plot(result_of(row("eager", 2.0)))
    assert shown == []
    rows = [row("eager", 2.0), row("transformer", 20.0), row("transformer", 40.0, 48), row("conv", math.nan)]
    rows[0].cost_by_position.update({3: 2.0, 40: 2.1})
    bench_plots.plot(result_of(*rows, row("eager", 4.0, batch=8), row("transformer", 160.0, batch=8)))
    positions, ratios, speeds = shown
    assert positions.curves == {"recurrent, eager": [(3, 2.0), (40, 2.1)]}
    assert ratios.curves == {
        "Transformer, KV cache, batch 1": [(24, 10.0), (48, 20.0)],
        "Transformer, KV cache, batch 8": [(24, 40.0)],
    }
    assert speeds.curves["recurrent, eager"] == [(1, 500.0), (8, 2000.0)]
    assert speeds.curves["Transformer, KV cache"] == [(1, 50.0), (8, 50.0)], "at the first length"
    assert "convolution again per token" not in speeds.curves
    assert "recurrent, eager" in speeds.ours


def row(way: str, ms: float, length: int = 24, **more: object) -> GenerationMeasurement:
    return dataclasses.replace(GenerationMeasurement(way, 1, length, ms, 1.0, 0.1, [0, 23]), **more)  # type: ignore[arg-type]


def result_of(
    *rows: GenerationMeasurement, engines: tuple[str, ...] = ("eager", "native", "native-int8")
) -> GenerationResult:
    about = machine(torch.device("cpu"))
    return GenerationResult("tiny", tiny(), tiny("attention"), 10, 10, about, engines, (), list(rows))


def test_a_row_without_numbers_is_shown_as_such_and_stays_out_of_the_ratios() -> None:
    result = result_of(row("eager", 2.0), row("transformer", math.nan, note="its process died"))
    assert cells(result, 1)[1][1:] == ["-", "-", "-", "1", "-", "-"]
    assert "its process died" in result.table()


def test_others_are_compared_with_our_best_engine_that_changes_no_result() -> None:
    exact, lossy, other = row("native", 2.0), row("native-int8", 1.0), row("transformer", 20.0)
    assert result_of(exact, lossy, other).ratio(other) == 10.0
    assert result_of(lossy, other).ratio(other) == 20.0
    assert math.isnan(result_of(other).ratio(other))


def test_the_table_says_the_limit_and_what_a_lossy_engine_loses() -> None:
    limit = Limit(0.5, 24_000_000, 12_000_000, 48e9, 174e9, 1)
    result = result_of(row("native-int8", 1.0, limit=limit, loss=Loss(0.0012, 0.0001, 4096)))
    table = result.table()
    assert cells(result, 1)[0][-1] == "50%"
    assert (
        "limit, recurrent, int8 weights: 0.5 ms = the longer of 24.0 MB at 48 GB/s and 12 MFLOP at 174 GFLOP/s" in table
    )
    assert "recurrent, native-int8 loses 0.0012 ± 0.0001 bits/dim (4,096 of the model's own tokens)" in table


def test_a_process_that_dies_becomes_a_row_without_numbers() -> None:
    (row,) = measure.measure_apart(workload("conv", config=_Deadly()))
    assert math.isnan(row.ms_per_step) and "died" in row.note


def test_limits_whose_process_dies_are_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def died(*_: object) -> None:
        raise DiedError("its process died")

    monkeypatch.setattr(limits, "run_apart", died)
    assert limits.limits_apart(limits.LimitsWorkload((("eager", 1, 24),), tiny(), None, tiny(), "cpu", 1)) == {}
    assert capsys.readouterr().err == "s4gen: no limits measured: its process died\n"


class _Deadly:
    """Ends the process that unpickles it, the way the system does when memory runs out."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        import os

        return os._exit, (9,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, "batch 0: expected at least 1"),
        ({"lengths": (9, 0)}, "length 0: expected at least 1"),
        ({"engines": ("warp",)}, "bench knows no engine 'warp': expected some of eager, compiled, native"),
        ({"engines": ("auto",)}, "bench knows no engine 'auto'"),
        ({"baselines": ("rnn",)}, "bench knows no baseline 'rnn': expected some of conv, transformer"),
        ({"engines": (), "baselines": ()}, "there is nothing to measure"),
        ({"positions": (0,)}, "position 0: expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generation.run("tiny", tiny(), **changes)  # type: ignore[arg-type]


def test_every_engine_but_the_choice_of_one_can_be_measured() -> None:
    from s4gen.sampling import engines

    assert set(engines.ENGINES) - {"auto"} == set(ENGINES)


def test_a_transformer_is_not_benchmarked_as_a_recurrent_model() -> None:
    with pytest.raises(UserError, match="this one is a Transformer"):
        generation.run("tiny", tiny("attention"))
