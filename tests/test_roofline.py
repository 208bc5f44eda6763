"""The roofline counts what a step must move and compute, and measures what the machine can."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from s4gen.bench.baselines import parameter_count
from s4gen.bench.limits import LimitsWorkload, limits
from s4gen.bench.roofline import (
    LARGEST_BUFFER,
    SMALLEST_BUFFER,
    Rates,
    Work,
    count,
    groups,
    limit,
    measure_rates,
    transformer_work,
    working_set,
)
from s4gen.bench.ways import precision_of
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, load_preset
from s4gen.models.build import build_model
from s4gen.models.h3 import TAPS
from s4gen.sampling.convert import convert
from s4gen.sampling.flatten import flatten

LAYOUT = ImageLayout(height=4, width=6, channels=1, levels=16)
CPU = torch.device("cpu")


def config(mixer: str) -> DensityConfig:
    return DensityConfig(
        LAYOUT, ModelConfig(mixer=mixer, d_model=8, n_layers=2, d_ff=12, n_heads=2), SSMConfig(d_state=4)
    )


@pytest.mark.parametrize(("mixer", "rank"), [("s4d", 0), ("s4", 1)])
def test_the_work_of_a_tiny_model_is_the_one_counted_by_hand(mixer: str, rank: int) -> None:
    work = count(flatten(convert(build_model(config(mixer)))))
    gate, up, down, head = 8 * 16, 8 * 12, 12 * 8, 8 * 16
    weights = 2 * (gate + up + down) + head
    biases = 2 * (16 + 12 + 8) + 16
    norms = 2 * 2 * (8 + 8) + (8 + 8)
    coefficients = 2 * ((3 + 2 * rank) * 8 * 4 + 8)  # a, B, C, p and q of 8 heads with 4 numbers, and D
    state = 2 * 8 * 4
    assert work == Work(
        weights=weights,
        scales=2 * (16 + 12 + 8) + 16,
        constants=4 * (biases + norms + coefficients),
        kept=4 * state,
        moved=2 * 4 * state,
        operations=2 * weights + (7 + 4 * rank) * state,
    )
    assert work.shared("fp32") == 4 * weights + work.constants
    assert work.shared("bf16") == 2 * weights + work.constants
    assert work.shared("int8") == weights + 4 * work.scales + work.constants


def test_h3_is_counted_with_its_shift_and_its_products() -> None:
    work = count(flatten(convert(build_model(config("h3")))))
    qkv, out, up, down, head = 8 * 24, 8 * 8, 8 * 12, 12 * 8, 8 * 16
    weights = 2 * (qkv + out + up + down) + head
    biases, norms = 2 * (24 + 8 + 12 + 8) + 16, 2 * 2 * (8 + 8) + (8 + 8)
    coefficients = 2 * (3 * 8 * 4 + 8 + 8 * TAPS)
    state, keys = 2 * 8 * 4, 2 * 8 * (TAPS - 1)
    assert work == Work(
        weights=weights,
        scales=biases,
        constants=4 * (biases + norms + coefficients),
        kept=4 * (state + keys),
        moved=2 * 4 * (state + keys),
        operations=2 * weights + 7 * state + 2 * 8 * (2 * TAPS + 2),  # two products beside the taps
    )


def test_a_coarse_level_counts_by_how_often_it_runs() -> None:
    model = ModelConfig("s4d", d_model=8, n_layers=1, d_ff=12, pool=(2, 3))
    work = count(flatten(convert(build_model(DensityConfig(AudioLayout(100, bits=4), model, SSMConfig(d_state=4))))))
    block = 8 * 16 + 2 * 8 * 12  # grows with the square of the width
    levels = {1: block, 2: 4 * block, 6: 16 * block}
    pools = {2: 2 * (2 * 8) * 16, 6: 2 * (3 * 16) * 32}
    head = 8 * 16
    once = sum(numbers / often for part in (levels, pools) for often, numbers in part.items())
    total = sum((*levels.values(), *pools.values(), head))
    assert work.weights == round(once + head) < total == work.weights + work.idle_weights
    state, windows = (8 + 16 + 32) * 4, 2 * (2 * 8 + 3 * 16)
    assert work.kept == 4 * (state + windows)
    states = (8 + 16 / 2 + 32 / 6) * 4
    assert work.moved == round(4 * (2 * states + 4 * 8 + 4 * 16 / 2))
    assert work.operations == pytest.approx(2 * work.weights + 7 * states, abs=2)
    assert work.held("fp32") - work.shared("fp32") == 4 * work.idle_weights + work.idle_constants > 0


def pixels(**settings: Any) -> Work:
    """Of two layers on images of 4 by 6 colour pixels, one along rows and one down columns."""
    model = ModelConfig(
        d_model=8, n_layers=2, d_ff=12, whole_pixels=True, taps=True, scan=("row", "column"), **settings
    )
    config = DensityConfig(ImageLayout(4, 6, 3, levels=16), model, SSMConfig(d_state=4, init="lin"))
    return count(flatten(convert(build_model(config))))


def test_the_stack_of_whole_pixels_counts_once_per_pixel_and_its_head_once_per_value() -> None:
    work = pixels(head="mixture", components=5, neighbourhood=1)
    neighbours, outputs = 3 + 7, 5 * (1 + 3 + 3 + 3)
    stack = 2 * (8 * 16 + 2 * 8 * 12) + neighbours * 4 * 8 + 8 * outputs
    assert (work.weights, work.weights + work.idle_weights) == (round(stack / 3), stack)
    ring, history, kept = 7, 3 * 9, outputs + 3  # the farthest neighbour is in the row above, three to the left
    assert work.kept == 4 * (history + kept + 2 * ring * 8 + (1 + 6) * 8 * 4)
    per_pixel = neighbours * 3 + 2 * 5 * 8 + 2 * 2 * 8 * 4
    assert work.moved == round(4 * (1 + kept + per_pixel / 3))
    assert work.operations == round((2 * stack + 2 * (2 * 4 * 8) + 2 * 7 * 8 * 4) / 3)


def test_the_values_of_a_pixel_share_its_stack_but_not_their_softmax() -> None:
    work = pixels()
    stack, head = 2 * (8 * 16 + 2 * 8 * 12) + 4 * 8, 8 * 8 + 8 * 16
    assert work.weights == round(stack / 3 + head)
    assert work.weights + work.idle_weights == stack + head


def test_the_benchmark_model_reads_the_bytes_that_the_issue_of_speed_is_about() -> None:
    model, ssm, layout = load_preset("bench-8x256")
    assert layout is not None
    work = count(flatten(convert(build_model(DensityConfig(layout, model, ssm)))))
    assert work.shared("fp32") == pytest.approx(22.8e6, rel=0.02)
    assert 64 * work.kept == 64 * 8 * 256 * 64 * 4


def test_both_benchmark_presets_differ_in_the_layer_alone() -> None:
    (model, ssm, layout), (other, other_ssm, other_layout) = load_preset("bench-8x256"), load_preset("bench-8x256-s4")
    assert (other.mixer, other_ssm.init) == ("s4", "legs")
    assert (model.d_model, model.n_layers, model.d_ff, layout) == (
        other.d_model,
        other.n_layers,
        other.d_ff,
        other_layout,
    )
    assert ssm.d_state == other_ssm.d_state


def test_a_transformer_reads_all_its_parameters_and_half_of_its_cache() -> None:
    transformer = build_model(config("attention"))
    work = transformer_work(transformer, 10, "fp32")
    embedding = 8 * (16 + 1 + 4 + 6 + 1)
    assert work.shared("fp32") == 4 * (parameter_count(transformer.config) - embedding)
    assert work.moved == work.kept == 2 * 2 * 8 * 5 * 4  # layers, key and value, features, places, bytes
    assert work.operations == 2 * work.weights + 2 * 2 * 2 * 8 * 5
    assert transformer_work(transformer, 10, "bf16").shared("bf16") == work.shared("fp32") / 2


def rates(by_size: dict[int, float], rate: float) -> Rates:
    return Rates(by_size, {"fp32": rate, "bf16": rate, "int8": rate})


def test_the_limit_is_the_longer_of_moving_and_computing() -> None:
    work = Work(weights=10**6, scales=0, constants=0, kept=10**6, moved=2 * 10**6, operations=2 * 10**6)
    size = working_set(work, "fp32", 1)
    assert size == 5 * 10**6
    slow_memory = limit(work, "fp32", 1, rates({size: 1e9}, 1e12))
    assert slow_memory.limit_ms == pytest.approx(6.0)
    assert (slow_memory.bytes_per_step, slow_memory.operations_per_step) == (6 * 10**6, 2 * 10**6)
    assert limit(work, "fp32", 1, rates({size: 1e12}, 1e9)).limit_ms == pytest.approx(2.0)


def test_rows_go_together_in_groups_where_the_cache_is_worth_reading_the_weights_again() -> None:
    work = Work(weights=10**6, scales=0, constants=0, kept=10**6, moved=2 * 10**6, operations=1)
    sizes = {working_set(work, "fp32", rows): rows for rows in groups(8)}
    assert sorted(sizes.values()) == [1, 2, 4, 8]
    cached = {size: 1e11 if rows <= 2 else 1e9 for size, rows in sizes.items()}
    best = limit(work, "fp32", 8, rates(cached, 1e12))
    assert best.rows_together == 2
    assert best.bytes_per_step == 4 * 4 * 10**6 + 8 * 2 * 10**6
    assert best.limit_ms == pytest.approx(1e3 * best.bytes_per_step / 1e11)
    alike = dict.fromkeys(sizes, 1e9)
    assert limit(work, "fp32", 8, rates(alike, 1e12)).rows_together == 8


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1]), (2, [2, 1]), (7, [7, 4, 2, 1]), (64, [64, 32, 16, 8, 4, 2, 1])])
def test_groups_are_halves_down_to_one_row(batch: int, sizes: list[int]) -> None:
    assert groups(batch) == sizes


def test_working_sets_stay_between_the_sizes_that_are_measured() -> None:
    work = Work(weights=1, scales=0, constants=0, kept=2**20, moved=0, operations=1)
    assert working_set(work, "fp32", 1) == SMALLEST_BUFFER
    assert working_set(work, "fp32", 10**6) == LARGEST_BUFFER


def test_the_measured_rates_are_those_of_a_machine() -> None:
    """A core of the last twenty years reads 0.1 to 10,000 GB/s and computes 0.1 to 100,000 GFLOP/s."""
    found = measure_rates([2**21, 2**22], ["fp32", "int8"], CPU, budget=0.01)
    assert sorted(found.bandwidth) == [2**21, 2**22] and sorted(found.rate) == ["fp32", "int8"]
    assert all(1e8 < value < 1e13 for value in found.bandwidth.values())
    assert all(1e8 < value < 1e14 for value in found.rate.values())
    assert found.rate["int8"] >= found.rate["fp32"]


def test_another_way_to_measure_counts_where_it_reaches_more() -> None:
    asked: list[int] = []

    def extra(size: int) -> tuple[float, float]:
        asked.append(size)
        return (1e15, 1.0) if size == 2**21 else (1.0, 1e18)

    found = measure_rates([2**21, 2**22], ["fp32"], CPU, budget=0.01, extra=extra)
    assert asked == [2**21, 2**22]
    assert found.bandwidth[2**21] == 1e15 and 1e8 < found.bandwidth[2**22] < 1e13
    assert found.rate == {"fp32": 1e18}


def test_every_engine_and_cached_transformer_has_a_limit_and_nothing_else_has() -> None:
    ways = ("eager", "native-bf16", "native-int8", "transformer", "conv")
    steps = tuple((way, batch, 24) for way in ways for batch in (1, 3))
    found = limits(LimitsWorkload(steps, config("s4"), None, config("attention"), "cpu", 1))
    assert set(found) == {step for step in steps if step[0] != "conv"}
    assert all(0 < one.limit_ms < math.inf and one.bandwidth > 0 and one.rate > 0 for one in found.values())
    assert found["native-int8", 1, 24].bytes_per_step < found["native-bf16", 1, 24].bytes_per_step


def test_a_model_without_a_plan_has_no_limit() -> None:
    assert limits(LimitsWorkload((("eager", 1, 24),), config("lssl"), None, config("attention"), "cpu", 1)) == {}


def test_the_precision_of_the_weights_is_in_the_name() -> None:
    ways = ("eager", "compiled", "native", "native-bf16", "native-int8", "transformer", "transformer-bf16")
    assert [precision_of(way) for way in ways] == ["fp32", "fp32", "fp32", "bf16", "int8", "fp32", "bf16"]
