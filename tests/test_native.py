"""The native engine: the eager step's numbers, the same bits however rows are batched, and no trust in its plan."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import shaken
from tiny import noisy_model

from s4gen.compiling.compiler import SOURCE, find_compiler
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel, ModelState
from s4gen.models.h3 import TAPS
from s4gen.models.raster import Raster
from s4gen.models.states import chosen_rows, tensors
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import native
from s4gen.sampling.engines.native import (
    WEIGHTS,
    NativeEngine,
    NativeSession,
    NativeUnavailable,
    build,
    measured_limits,
)
from s4gen.sampling.engines.native.lanes import SOLO, StepTimes, lanes_for
from s4gen.sampling.engines.native.pack import pack
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.flatten import flatten
from s4gen.sampling.plan import (
    SSM,
    AddKept,
    Channel,
    Components,
    Down,
    Keep,
    Linear,
    Mixture,
    Neighbours,
    Pixel,
    Plan,
    Shift,
    Taps,
    Up,
    Where,
)
from s4gen.sampling.randomness import draw

try:
    build.library()
except NativeUnavailable as reason:
    pytest.skip(f"no native engine here: {reason}", allow_module_level=True)

LANES = (0, 8, 16, 32)
ROWS = 11  # fills no group

# Widths, modes and vocabularies that fill no block of 16; rank 2; shared SSMs; no feed-forward; three channels.
MODELS = {
    "s4d": (ModelConfig("s4d", d_model=20, n_layers=2, d_ff=40), SSMConfig(d_state=6)),
    "s4": (ModelConfig("s4", d_model=16, n_layers=2, d_ff=0), SSMConfig(d_state=8)),
    "s4, rank 2": (ModelConfig("s4", d_model=24, n_layers=1, d_ff=10), SSMConfig(d_state=10, init="legt", n_ssm=4)),
    "dss": (ModelConfig("dss", d_model=33, n_layers=1, d_ff=7), SSMConfig(d_state=2)),
}
LAYOUT = ImageLayout(height=3, width=4, channels=3, levels=19)
TEXT = TextLayout(vocab=19, start=3, length=36)
MODELS |= {
    "text": (ModelConfig("s4d", d_model=20, n_layers=1, d_ff=24), SSMConfig(d_state=4)),
    "text, adaptive": (
        ModelConfig("s4d", d_model=32, n_layers=2, d_ff=8, mixers_per_block=2, cutoffs=(5, 12)),
        SSMConfig(d_state=4),
    ),
}
H3 = {
    "h3": (ModelConfig("h3", d_model=21, n_layers=2, d_ff=10), SSMConfig(d_state=6)),
    "text, h3": (ModelConfig("h3", d_model=32, n_layers=1, d_ff=0, cutoffs=(5, 12)), SSMConfig(d_state=4, init="lin")),
}
MODELS |= H3
AUDIO = AudioLayout(rate=100, bits=5, classes=("a", "b", "c"))
LAYOUTS = {"text": TEXT, "audio": AUDIO, "audio without labels": replace(AUDIO, classes=())}
POOLED = {
    "audio, 4-4": (
        ModelConfig("s4d", d_model=10, n_layers=1, d_ff=14, pool=(4, 4)),
        SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5),
    ),
    "audio without labels, 3": (
        ModelConfig("s4", d_model=17, n_layers=2, d_ff=0, pool=(3,), expand=1, unet=True),
        SSMConfig(d_state=6, dt_min=0.01, dt_max=0.5),
    ),
    "audio, 2-3-2": (
        ModelConfig("dss", d_model=5, n_layers=1, d_ff=7, pool=(2, 3, 2), unet=True),
        SSMConfig(d_state=2, dt_min=0.01, dt_max=0.5),
    ),
    "image, 2": (
        ModelConfig("s4d", d_model=16, n_layers=1, d_ff=5, pool=(2,), expand=3),
        SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5),
    ),
}
MODELS |= POOLED
MODELS |= {
    "audio, its last 7 samples": (
        ModelConfig("s4d", d_model=16, n_layers=1, d_ff=5, pool=(2,), recent=7),
        SSMConfig(d_state=4, dt_min=0.01, dt_max=0.5),
    ),
    "audio, its last sample": (ModelConfig("s4d", d_model=5, n_layers=1, recent=1), SSMConfig(d_state=2)),
}
LAYOUTS |= {
    "pixels": ImageLayout(3, 2, 3, levels=19),
    "grey": ImageLayout(4, 3, 1, levels=19),
    "grey of a class": ImageLayout(4, 3, 1, levels=19, classes=("a", "b", "c")),
}
MIXTURE: dict[str, Any] = {"whole_pixels": True, "head": "mixture"}
AXIAL_SSM = SSMConfig(d_state=4, init="lin", dt_min=0.01, dt_max=0.5)
# More components than a vector holds; an axial layer of rank 1; layers of taps alone; d_model that fills no block.
PIXELS = {
    "pixels, mixture": (
        ModelConfig(
            "s4d", d_model=21, n_layers=2, d_ff=10, **MIXTURE, neighbourhood=2, taps=True, scan=("row", "column")
        ),
        AXIAL_SSM,
    ),
    "pixels, 17 components": (
        ModelConfig("s4d", d_model=16, n_layers=1, d_ff=0, **MIXTURE, components=17, zero_start=True),
        AXIAL_SSM,
    ),
    "pixels, channels": (
        ModelConfig(
            "s4", d_model=18, n_layers=2, d_ff=7, whole_pixels=True, neighbourhood=1, taps=True, scan=("none", "column")
        ),
        replace(AXIAL_SSM, init="legs"),
    ),
    "grey, taps": (
        ModelConfig("dss", d_model=20, n_layers=2, d_ff=8, whole_pixels=True, taps=True, scan=("row", "raster")),
        AXIAL_SSM,
    ),
    "grey of a class": (ModelConfig(d_model=18, n_layers=1, d_ff=6, whole_pixels=True, neighbourhood=1), AXIAL_SSM),
    "grey, h3": (ModelConfig("h3", d_model=18, n_layers=1, d_ff=6, **MIXTURE, components=3), AXIAL_SSM),
}
MODELS |= PIXELS


def recurrent_of(name: str) -> RecurrentModel:
    torch.manual_seed(0)
    layout = LAYOUTS.get(name.partition(",")[0], LAYOUT)
    return convert(shaken(build_model(DensityConfig(layout, *MODELS[name]))))


def start(recurrent: RecurrentModel, rows: int = ROWS) -> ModelState:
    """The state before bos, of several labels where there are any."""
    return recurrent.initial_state(rows, torch.arange(rows) % len(AUDIO.classes))


@pytest.fixture(params=MODELS)
def recurrent(request: pytest.FixtureRequest) -> Iterator[RecurrentModel]:
    with torch.inference_mode():
        yield recurrent_of(request.param)


def tokens(recurrent: RecurrentModel, steps: int) -> torch.Tensor:
    """What is fed: bos, then anything; (ROWS, steps) int64."""
    drawn = torch.randint(0, LAYOUT.vocab, (ROWS, steps), generator=torch.Generator().manual_seed(1))
    drawn[:, 0] = recurrent.bos
    return drawn


def assert_close(got: ModelState, want: ModelState) -> None:
    """The same structure, places and labels; numbers as close as two orders of summation."""
    for ours, theirs in zip(tensors(got), tensors(want), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=2e-5, rtol=2e-5)


def same(one: ModelState, other: ModelState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_fed_tokens_give_the_eager_logits_and_state_beyond_one_sequence(recurrent: RecurrentModel) -> None:
    """In every form; the eager steps take longest and are made once for all of them."""
    state, engine = start(recurrent), NativeEngine(recurrent, KEEP_ALL)
    sessions = {lanes: NativeSession(engine, state, lanes) for lanes in LANES}
    for token in tokens(recurrent, LAYOUT.length + 5).unbind(dim=1):
        expected, state = recurrent.step(token, state)
        for lanes, session in sessions.items():
            assert torch.allclose(session.feed(token), expected, atol=2e-5, rtol=1e-5), lanes
    for session in sessions.values():
        assert_close(session.state(), state)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_however_rows_lie_side_by_side_tokens_and_state_are_bitwise_the_same(
    recurrent: RecurrentModel, weights: str
) -> None:
    engine = NativeEngine(recurrent, Filters(temperature=1.1), weights)
    u = torch.rand(ROWS, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    bos = torch.full((ROWS,), recurrent.bos)
    reference = NativeSession(engine, start(recurrent), 0)
    drawn = reference.advance(bos, u)
    for lanes in LANES[1:]:
        session = NativeSession(engine, start(recurrent), lanes)
        assert torch.equal(session.advance(bos, u), drawn)
        assert same(session.state(), reference.state())
    for row in (0, 6):
        alone = NativeSession(engine, chosen_rows(start(recurrent), torch.tensor([row])), 0)
        assert torch.equal(alone.advance(bos[:1], u[row : row + 1]), drawn[row : row + 1])


@pytest.mark.parametrize("name", ["s4d", "h3", "audio, 2-3-2", "pixels, mixture", "pixels, channels"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    recurrent = recurrent_of(name)
    engine = NativeEngine(recurrent, KEEP_ALL)
    u = torch.rand(ROWS, 20, dtype=torch.float64)
    bos = torch.full((ROWS,), recurrent.bos)
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drawn += [NativeSession(engine, recurrent.initial_state(ROWS), lanes).advance(bos, u) for lanes in (0, 8)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, drawn[0]) for one in drawn)


@pytest.mark.parametrize(
    "filters",
    [
        KEEP_ALL,
        Filters(temperature=0.6),
        Filters(temperature=0.0),
        Filters(top_k=3),
        Filters(top_p=0.7),
        Filters(min_p=0.2),
        Filters(temperature=1.3, top_k=9, top_p=0.8, min_p=0.05),
    ],
)
def test_filters_and_draw_are_those_of_python(filters: Filters) -> None:
    recurrent = recurrent_of("s4d")
    bos = torch.full((ROWS,), recurrent.bos)
    for seed in range(20):
        u = torch.rand(ROWS, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        logits = NativeSession(NativeEngine(recurrent, filters), recurrent.initial_state(ROWS), 0).feed(bos)
        drawn = NativeSession(NativeEngine(recurrent, filters), recurrent.initial_state(ROWS), 0).advance(bos, u)
        assert torch.equal(drawn[:, 0], draw(filters(logits), u[:, 0]))


def test_ties_go_to_the_lower_token_as_in_python() -> None:
    recurrent = recurrent_of("s4d")
    with torch.no_grad():
        recurrent.stepper.head.weight.zero_()  # the bias alone decides
        recurrent.stepper.head.bias.copy_(torch.tensor([0.0, 1.0, 1.0, 0.5] * 4 + [1.0] * 3))
    state, bos = recurrent.initial_state(ROWS), torch.full((ROWS,), recurrent.bos)
    u = torch.linspace(0, 0.999, ROWS, dtype=torch.float64)[:, None]
    for filters in (Filters(temperature=0.0), Filters(top_k=2), Filters(top_k=5), Filters(top_p=0.3)):
        drawn = NativeSession(NativeEngine(recurrent, filters), state, 0).advance(bos, u)
        logits = recurrent.stepper.head.bias.expand(ROWS, -1)
        assert torch.equal(drawn[:, 0], draw(filters(logits), u[:, 0]))


@pytest.mark.parametrize("name", ["s4d", "h3", "audio, 4-4", "pixels, mixture", "pixels, channels"])
@pytest.mark.parametrize(("weights", "most"), [("bf16", 0.02), ("int8", 0.1)])
def test_smaller_weights_change_the_logits_a_little(name: str, weights: str, most: float) -> None:
    recurrent = recurrent_of(name)
    exact, rounded = (
        NativeSession(NativeEngine(recurrent, KEEP_ALL, kind), start(recurrent), 0) for kind in ("fp32", weights)
    )
    for token in tokens(recurrent, 20).unbind(dim=1):
        expected, got = exact.feed(token), rounded.feed(token)
        assert 0 < (got - expected).abs().max() < most * expected.abs().max()


def test_a_wide_vocabulary_is_cut_by_mass_as_in_python() -> None:
    """More tokens than are sorted at first."""
    recurrent = convert(noisy_model("s4d", ImageLayout(height=2, width=2, channels=1, levels=250)))
    bos = torch.full((ROWS,), recurrent.bos)
    filters = Filters(top_p=0.9)
    u = torch.linspace(0, 0.999, ROWS, dtype=torch.float64)[:, None]
    engine = NativeEngine(recurrent, filters)
    logits = NativeSession(engine, recurrent.initial_state(ROWS), 0).feed(bos)
    assert (filters(logits) > -torch.inf).sum(-1).min() > 64
    drawn = NativeSession(engine, recurrent.initial_state(ROWS), 0).advance(bos, u)
    assert torch.equal(drawn[:, 0], draw(filters(logits), u[:, 0]))


def test_few_rows_share_all_threads_and_many_share_vectors() -> None:
    times = StepTimes(one=1.0, solo=4.0, group={8: 8.0, 16: 12.0, 32: 14.0})
    assert [lanes_for([rows], 2, times) for rows in (1, 4, 16, 32, 64, 1000)] == [0, 0, 8, 16, 32, 32]
    assert [lanes_for([rows], 1, times) for rows in (8, 16, 32, 64)] == [0, 16, 32, 32]
    assert [lanes_for(rows, 1, times) for rows in ([16, 16], [1] * 16, [31, 1], [9] * 4)] == [16, 0, 32, 0]
    assert lanes_for([64], 8, times) == 0 or -(-64 // lanes_for([64], 8, times)) >= 4  # groups for half of the threads
    quick = StepTimes(one=1.0, solo=1.5, group=times.group)
    assert [lanes_for(rows, 1, quick) for rows in ([16], [32], [1] * 16, [16] * 4)] == [0, 0, 0, 0]
    assert lanes_for([64], 1, quick) == 0 and lanes_for([64], 2, quick) == 32  # for threads wait for each other


def test_the_times_of_a_step_are_measured_once_and_only_for_many_rows() -> None:
    recurrent = recurrent_of("s4d")
    engine = NativeEngine(recurrent, KEEP_ALL)
    engine.begin(recurrent.initial_state(SOLO))
    assert "_times" not in vars(engine)
    engine.begin(recurrent.initial_state(SOLO + 1))
    times = vars(engine)["_times"]
    assert times.one > 0 and times.solo > 0 and min(times.group.values()) > 0 and sorted(times.group) == [8, 16, 32]
    engine.begin(recurrent.initial_state(40))
    assert vars(engine)["_times"] is times


def test_the_state_that_was_given_is_left_alone_and_a_copy_comes_back() -> None:
    recurrent = recurrent_of("s4")
    state, bos = recurrent.initial_state(3), torch.full((3,), recurrent.bos)
    session = NativeEngine(recurrent, KEEP_ALL).begin(state)
    session.feed(bos)
    copy = session.state()
    kept = [block.clone() for block in copy.blocks]
    session.feed(bos - 1)
    assert all(not block.any() for block in state.blocks)
    assert all(torch.equal(a, b) for a, b in zip(copy.blocks, kept, strict=True))


def test_wrong_tokens_are_refused_and_the_session_goes_on() -> None:
    recurrent = recurrent_of("s4d")
    session = NativeEngine(recurrent, KEEP_ALL).begin(recurrent.initial_state(2))
    for wrong in (-1, LAYOUT.levels + 1, 2**40):
        with pytest.raises(UserError, match=f"token {wrong} is outside of the vocabulary of 19"):
            session.feed(torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(2,\)"):
        session.feed(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(3, 1\); expected \(2, steps\)"):
        session.advance(torch.tensor([0, 0]), torch.zeros(3, 1, dtype=torch.float64))
    assert session.feed(torch.tensor([recurrent.bos, 3])).isfinite().all()


def test_a_diverged_model_is_said_to_be_one() -> None:
    recurrent = recurrent_of("s4d")
    with torch.no_grad():
        recurrent.stepper.head.bias[3] = torch.nan
    session = NativeEngine(recurrent, KEEP_ALL).begin(recurrent.initial_state(1))
    with pytest.raises(UserError, match="not a finite number"):
        session.advance(torch.tensor([recurrent.bos]), torch.zeros(1, 4, dtype=torch.float64))


# H3 and levels


def phases(recurrent: RecurrentModel, rows: int) -> tuple[torch.Tensor, ModelState]:
    """The states of rows that have read 0, 1, 2, .. tokens by convolution, and the tokens."""
    prompt = torch.randint(0, LAYOUT.vocab, (rows, rows), generator=torch.Generator().manual_seed(3))
    labels = torch.arange(rows) % len(AUDIO.classes)
    _, state = recurrent.source.prefill(prompt, None, torch.arange(rows), labels)
    return prompt, state


@pytest.mark.parametrize("name", [*POOLED, *H3, *PIXELS])
def test_rows_at_all_places_of_a_window_go_on_from_the_convolution_together(name: str) -> None:
    recurrent = recurrent_of(name)
    rows = max(flatten(recurrent).period, TAPS) + 2
    _, state = phases(recurrent, rows)
    engine = NativeEngine(recurrent, KEEP_ALL)
    sessions = {lanes: NativeSession(engine, state, lanes) for lanes in LANES}
    for session in sessions.values():
        assert_close(session.state(), state)
    for token in torch.randint(0, LAYOUT.vocab, (7, rows), generator=torch.Generator().manual_seed(4)):
        expected, state = recurrent.step(token, state)
        for lanes, session in sessions.items():
            assert torch.allclose(session.feed(token), expected, atol=2e-5, rtol=1e-5), lanes
    for session in sessions.values():
        assert_close(session.state(), state)


@pytest.mark.parametrize("name", [*POOLED, *H3, *PIXELS])
def test_a_row_at_its_place_draws_the_same_bits_beside_rows_at_other_places(name: str) -> None:
    recurrent = recurrent_of(name)
    rows = max(flatten(recurrent).period, TAPS) + 2
    _, state = phases(recurrent, rows)
    engine, token = NativeEngine(recurrent, KEEP_ALL), torch.arange(rows)
    u = torch.rand(rows, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ends = []
    for lanes in (0, 8):
        session = NativeSession(engine, state, lanes)
        drawn = session.advance(token, u)
        ends.append(session.state())
        for row in torch.arange(rows)[::4].split(1):
            alone = NativeSession(engine, chosen_rows(state, row), 0)
            assert torch.equal(alone.advance(token[row], u[row]), drawn[row])
            assert same(alone.state(), chosen_rows(ends[-1], row))
    assert same(*ends)


@pytest.mark.parametrize("name", [*POOLED, *H3, *PIXELS])
def test_from_everywhere_in_a_window_the_convolution_goes_on(name: str) -> None:
    """Native, then a chunk by convolution across window borders, then native: as if all had been one engine's."""
    recurrent = recurrent_of(name)
    engine, fed = NativeEngine(recurrent, KEEP_ALL), tokens(recurrent, 40)
    for stop in range(1, max(flatten(recurrent).period, TAPS) + 1, 3):
        session = NativeSession(engine, start(recurrent), 0)
        for token in fed[:, :stop].unbind(dim=1):
            session.feed(token)
        got, state = recurrent.prefill(fed[:, stop:29], session.state())
        expected, whole = recurrent.prefill(fed[:, 1:29], label=torch.arange(ROWS) % len(AUDIO.classes))
        assert torch.allclose(got, expected, atol=5e-5, rtol=1e-5)
        assert_close(NativeSession(engine, state, 8).state(), whole)


# Whole pixels

MIXTURES = [name for name, (model, _) in PIXELS.items() if model.head == "mixture"]
NARROW = ImageLayout(height=2, width=3, channels=3, levels=256)


def extreme_mixture(levels: int = 256) -> DensityModel:
    """Scales from less than a value to all values, and means far outside."""
    torch.manual_seed(0)
    model = ModelConfig(d_model=8, n_layers=1, d_ff=0, **MIXTURE, components=4, neighbourhood=1)
    built = build_model(DensityConfig(replace(NARROW, levels=levels), model, AXIAL_SSM))
    with torch.no_grad():
        built.head.linear.weight.mul_(6)
    return built


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("lanes", LANES)
def test_a_mixture_is_its_definition_in_float64_in_the_farthest_tails(levels: int, lanes: int) -> None:
    model = extreme_mixture(levels)
    recurrent, exact = convert(model), convert(copy.deepcopy(model).double())
    session = NativeSession(NativeEngine(recurrent, KEEP_ALL), recurrent.initial_state(ROWS), lanes)
    truth, least = exact.initial_state(ROWS), 0.0
    for token in torch.randint(0, levels, (NARROW.length, ROWS), generator=torch.Generator().manual_seed(1)):
        wanted, truth = exact.step(token, truth)
        got = session.feed(token)
        least = min(least, wanted.min().item())
        assert got.isfinite().all()
        assert ((got - wanted).abs() < 1e-3 * (1 + wanted.abs())).all()  # as near as means of 24 bits allow
        assert (got.double().exp().sum(-1) - 1).abs().max() < 1e-6
    assert least < -150  # no float32 holds e to that


@pytest.mark.parametrize("name", MIXTURES)
def test_draws_without_filters_are_those_from_the_log_probabilities(name: str) -> None:
    """Where the random number is at, or next to, 0, 1/2 and 1 too; in every form."""
    recurrent = recurrent_of(name)
    u = torch.rand(ROWS, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u[:3] = torch.tensor([[0.0], [1 - 2**-50], [0.5]], dtype=torch.float64)
    u[3, ::2], u[3, 1::2] = 1e-12, 1 - 1e-12
    engine, bos = NativeEngine(recurrent, KEEP_ALL), torch.full((ROWS,), recurrent.bos)
    session, token, drawn = NativeSession(engine, recurrent.initial_state(ROWS), 0), bos, []
    for column in u.unbind(1):
        token = draw(session.feed(token), column)
        drawn.append(token)
    for lanes in LANES:
        whole = NativeSession(engine, recurrent.initial_state(ROWS), lanes)
        assert torch.equal(whole.advance(bos, u), torch.stack(drawn, dim=1))
        assert same(whole.state(), session.state())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("filters", [KEEP_ALL, Filters(temperature=0.9)])
@pytest.mark.parametrize("part", ["weight", "mean", "log-scale", "coupling", "stem"])
def test_a_diverged_mixture_is_said_to_be_one(part: str, filters: Filters, lanes: int) -> None:
    """Whatever saturates on the way."""
    recurrent = recurrent_of("pixels, mixture")
    with torch.no_grad():
        head, stem = recurrent.stepper.head, recurrent.stepper.stem
        number = {"weight": 0, "mean": 2, "log-scale": 5, "coupling": 9}
        target = stem.linear.bias if part == "stem" else head.linear.bias.view(head.components, -1)[3]
        target[number.get(part, 0)] = torch.nan
    session = NativeSession(NativeEngine(recurrent, filters), recurrent.initial_state(ROWS), lanes)
    with pytest.raises(UserError, match="not a finite number"):
        session.advance(torch.full((ROWS,), recurrent.bos), torch.full((ROWS, 3), 0.4, dtype=torch.float64))


def test_a_state_whose_pixels_contradict_each_other_is_refused() -> None:
    recurrent = recurrent_of("pixels, mixture")
    engine, state = NativeEngine(recurrent, KEEP_ALL), recurrent.initial_state(2)
    with pytest.raises(UserError, match="a layer stands at another position than the model; the state is damaged"):
        engine.begin(state._replace(position=state.position + 1))
    for wrong in (-1, LAYOUT.levels + 1):
        first = state.blocks[0]._replace(recent=torch.full_like(state.blocks[0].recent, wrong))
        with pytest.raises(UserError, match="the last tokens are none of the vocabulary; the state is damaged"):
            engine.begin(state._replace(blocks=(first, *state.blocks[1:])))


def test_images_follow_each_other_for_ever() -> None:
    """Rings run on across the images; rows that are as far in theirs are computed together, whichever they are in."""
    recurrent = recurrent_of("pixels, mixture")
    length = recurrent.config.layout.length
    prompt = torch.randint(0, LAYOUT.vocab, (ROWS, 3 * length), generator=torch.Generator().manual_seed(3))
    lengths = 4 + length * (torch.arange(ROWS) % 3)
    _, state = recurrent.source.prefill(prompt, None, lengths)
    session = NativeSession(NativeEngine(recurrent, KEEP_ALL), state, 32)
    assert session._n_slots == ROWS
    for token in torch.randint(0, LAYOUT.vocab, (2 * length, ROWS), generator=torch.Generator().manual_seed(4)):
        expected, state = recurrent.step(token, state)
        assert torch.allclose(session.feed(token), expected, atol=2e-5, rtol=1e-5)
    assert_close(session.state(), state)


@pytest.mark.parametrize("name", ["audio, 4-4", "grey of a class"])
def test_labels_are_added_and_come_back(name: str) -> None:
    recurrent = recurrent_of(name)
    bos, labels = torch.full((3,), recurrent.bos), torch.tensor([2, 0, 1])
    session = NativeEngine(recurrent, KEEP_ALL).begin(recurrent.initial_state(3, labels))
    logits = session.feed(bos)
    assert torch.allclose(logits, recurrent.step(bos, recurrent.initial_state(3, labels))[0], atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 0.01
    assert torch.equal(session.state().label, labels)
    for wrong in (-1, 3):
        with pytest.raises(UserError, match=f"label {wrong} is none of the 3 classes"):
            NativeEngine(recurrent, KEEP_ALL).begin(recurrent.initial_state(2, torch.tensor([0, wrong])))


def test_a_state_whose_levels_contradict_each_other_is_refused() -> None:
    recurrent = recurrent_of("audio, 4-4")
    state = recurrent.initial_state(2)
    with pytest.raises(UserError, match="a level stands at another position than the model; the state is damaged"):
        NativeEngine(recurrent, KEEP_ALL).begin(state._replace(position=state.position + 1))


def without(kind: type, **fields: object) -> Callable[[Plan], list[object]]:
    def left_out(operation: object) -> bool:
        return isinstance(operation, kind) and all(getattr(operation, key) == value for key, value in fields.items())

    return lambda plan: [operation for operation in plan.operations if not left_out(operation)]


def other(kind: type, **changes: object) -> Callable[[Plan], list[object]]:
    return lambda plan: [replace(each, **changes) if isinstance(each, kind) else each for each in plan.operations]


def of_qkv(**changes: object) -> Callable[[Plan], list[object]]:
    def changed(plan: Plan) -> list[object]:
        found = [isinstance(each, Linear) and each.parts == 3 for each in plan.operations]
        return [replace(each, **changes) if hit else each for each, hit in zip(plan.operations, found, strict=True)]

    return changed


def otherwise_joined(**changes: object) -> Callable[[Plan], list[object]]:
    def changed(plan: Plan) -> list[object]:
        found = [isinstance(each, Linear) and each.source == "window" for each in plan.operations]
        return [replace(each, **changes) if hit else each for each, hit in zip(plan.operations, found, strict=True)]

    return changed


def moved_to_the_front(kind: type) -> Callable[[Plan], list[object]]:
    def changed(plan: Plan) -> list[object]:
        found = next(operation for operation in plan.operations if isinstance(operation, kind))
        rest = [operation for operation in plan.operations if operation is not found]
        return [rest[0], found, *rest[1:]]

    return changed


def assert_refused(
    kind: str, changed: Callable[[Plan], list[object]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a model of this kind, changed so, is no plan."""
    recurrent = recurrent_of(kind)
    plan = flatten(recurrent)
    monkeypatch.setattr(native, "flatten", lambda _: replace(plan, operations=tuple(changed(plan))))
    with pytest.raises(UserError, match=f"malformed plan: .*{why}"):
        NativeEngine(recurrent, KEEP_ALL)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (without(AddKept, width=10), "a level does not end"),
        (without(AddKept, width=40), "a level is joined where there is none"),
        (without(Keep), "a level ends that has not begun"),
        (without(Up), "an operation reads what is not there"),
        (without(Down), "an operation reads what is not there"),
        (without(Linear, target="pending"), "a level ends in the wrong way"),
        (otherwise_joined(target="g"), "a level is joined wrongly"),
        (otherwise_joined(source="g", target="x"), "an operation reads what is not there"),
        (other(Down, stride=5), "an operation reads what is not there"),
        (other(Down, stride=1), "a stride is out of range"),
        (moved_to_the_front(Up), "a level ends that has not begun"),
        (moved_to_the_front(AddKept), "an operation reads what is not there"),
        (lambda plan: [*plan.operations, *[Keep(10), AddKept(10)] * 17], "it has too many levels"),
    ],
)
def test_levels_that_do_not_nest_are_refused(
    changed: Callable[[Plan], list[object]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused("audio, 4-4", changed, why, monkeypatch)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (without(Linear, parts=3), "an operation reads what is not there"),
        (without(SSM), "an operation reads what is not there"),
        (of_qkv(parts=1), "an operation reads what is not there"),
        (of_qkv(target="logits"), "an operation reads what is not there"),
        (of_qkv(epilogue="glu"), "a linear layer reads or writes the wrong buffer"),
        (moved_to_the_front(Shift), "an operation reads what is not there"),
        (other(Shift, taps=torch.zeros(21, 1)), "a shift is wrong"),
        (other(Shift, taps=torch.zeros(21, 65)), "a shift is wrong"),
        (other(Shift, taps=torch.zeros(20 + 16, 4)), "an operation reads what is not there"),
    ],
)
def test_products_of_what_is_not_there_are_refused(
    changed: Callable[[Plan], list[object]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused("h3", changed, why, monkeypatch)


@pytest.mark.parametrize(
    ("kind", "changed", "why"),
    [
        ("mixture", without(Pixel), "the embedding must be the first operation"),
        ("mixture", moved_to_the_front(Mixture), "a mixture is wrong"),
        ("mixture", moved_to_the_front(Components), "an operation reads what is not there"),
        ("mixture", moved_to_the_front(Taps), "an operation reads what is not there"),
        ("mixture", without(Where), "a layer adds another width than there is"),
        ("mixture", without(Neighbours), "an operation reads what is not there"),
        ("mixture", other(Neighbours, predicts=False), "the components of a mixture are wrong"),
        ("mixture", other(Neighbours, offsets=((0, -1), (0, 0))), "a neighbour is not known"),
        ("mixture", other(Neighbours, offsets=((0, -1), (-9, 0))), "a neighbour is not known"),
        ("mixture", other(Neighbours, channels=2), "the neighbours are wrong"),
        ("mixture", other(Pixel, channels=17), "its pixels are wrong"),
        ("mixture", other(Pixel, levels=18), "its pixels are wrong"),
        ("mixture", other(Pixel, history=2), "too few pixels are known"),
        ("mixture", other(Pixel, kept=(3,)), "the components of a mixture are wrong"),
        ("mixture", other(Pixel, raster=Raster(0, 2)), "its pixels are wrong"),
        ("mixture", other(Pixel, raster=Raster(2**16, 2)), "a tensor lies outside of it"),
        ("mixture", without(Taps), "a state space layer adds to what is not there"),
        ("mixture", other(Taps, weight=torch.zeros(4, 40)), "an operation reads what is not there"),
        ("mixture", without(Components), "a mixture is wrong"),
        ("mixture", lambda plan: [*plan.operations, plan.operations[-1]], "its pixels have more than one head"),
        ("mixture", other(Mixture, count=5), "a mixture is wrong"),
        ("mixture", other(Mixture, levels=18), "a mixture is wrong"),
        ("mixture", lambda plan: [*plan.operations[:-1], Keep(21), AddKept(21)], "pixels have no levels"),
        ("channels", without(Channel), "a layer adds another width than there is"),
        ("channels", other(Channel, width=40), "an operation reads what is not there"),
        ("channels", other(Channel, value=torch.zeros(1, 18)), "the values of a channel are wrong"),
        ("channels", other(Pixel, kept=(40,)), "the head of a channel is wrong"),
        ("channels", other(Where, value=torch.zeros(1, 18)), "the values of a pixel are wrong"),
    ],
)
def test_pixels_without_their_parts_are_refused(
    kind: str, changed: Callable[[Plan], list[object]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(f"pixels, {kind}", changed, why, monkeypatch)


@pytest.mark.parametrize("kind", [Where, Neighbours, Taps, Components, Mixture, Channel])
def test_what_belongs_to_pixels_is_refused_without_them(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    donors = [flatten(recurrent_of(f"pixels, {name}")) for name in ("mixture", "channels")]
    foreign = next(each for plan in donors for each in plan.operations if isinstance(each, kind))
    assert_refused("s4d", lambda plan: [plan.operations[0], foreign, *plan.operations[1:]], "no pixels", monkeypatch)


def test_an_axis_needs_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused("s4d", other(SSM, axis="column"), "it has no pixels", monkeypatch)


@pytest.mark.parametrize("epilogue", [4, 5])
def test_a_gate_or_a_sum_belongs_to_no_linear_layer(epilogue: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(plan: Plan, weights: str) -> torch.Tensor:
        data = pack(plan, weights)
        records = data[64 : 64 + 128 * len(plan.operations)].view(torch.int32).view(-1, 32)
        records[2, 3] = epilogue  # of the first linear layer
        return data

    monkeypatch.setattr(native, "pack", gated)
    with pytest.raises(UserError, match="malformed plan: a linear layer has no gate or sum of its own"):
        NativeEngine(recurrent_of("h3"), KEEP_ALL)


@pytest.mark.parametrize("mixer", ["attention", "lssl"])
def test_a_layer_that_no_plan_knows_is_named(mixer: str) -> None:
    recurrent = convert(noisy_model(mixer))
    with pytest.raises(NativeUnavailable, match="layer 0 is of type"):
        NativeEngine(recurrent, KEEP_ALL)


def test_a_wavenet_is_named_too() -> None:
    model = build_model(DensityConfig(AUDIO, ModelConfig("wavenet", d_model=4, n_layers=2, d_ff=3), SSMConfig()))
    with pytest.raises(NativeUnavailable, match="layer 0 is of type WaveNet"):
        NativeEngine(convert(model), KEEP_ALL)


def test_a_model_in_double_precision_is_not_rounded_silently() -> None:
    with pytest.raises(NativeUnavailable, match=r"in torch\.float64"):
        NativeEngine(convert(noisy_model("s4d").double()), KEEP_ALL)


def test_the_limits_of_the_machine_are_numbers() -> None:
    bandwidth, rate = measured_limits(2_000_000, 1, seconds=0.02)
    assert bandwidth > 1e8 and rate > 1e8


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The engine without Python, built with sanitizers."""
    path = tmp_path_factory.mktemp("driver") / "driver"
    source = Path(__file__).with_name("native_driver.cpp")
    options = ["-std=c++17", "-O0", f"-fsanitize={request.param}", "-ffp-contract=off", "-Wall", "-Wno-psabi"]
    command = [*find_compiler().command, *options, "-fno-sanitize-recover=all", f"-I{SOURCE.parent}"]
    done = subprocess.run([*command, str(source), "-pthread", "-o", str(path)], capture_output=True, text=True)
    if "cannot find" in done.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return path


def fuzz(driver: Path, folder: Path, fuzzes: int) -> None:
    others = [(name, "fp32") for name in ("audio, 2-3-2", "text, h3", "pixels, mixture", "pixels, channels")]
    for name, weights in [*(("s4, rank 2", weights) for weights in WEIGHTS), *others]:
        plan = folder / "plan"
        plan.write_bytes(pack(flatten(recurrent_of(name)), weights).numpy().tobytes())
        done = subprocess.run([driver, plan, str(fuzzes)], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        forms, verdict = done.stdout.splitlines()
        drawn = forms.split()
        assert len(drawn) == 12 * 3 and drawn == drawn[:3] * 12  # all lanes and threads draw the same
        rejected = int(verdict.split()[0])
        assert 0.3 * fuzzes < rejected < 0.9 * fuzzes  # some damage is to weights: no other plan, other numbers


@pytest.mark.parametrize("driver", ["address,undefined"], indirect=True)
@pytest.mark.parametrize("fuzzes", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_no_plan_makes_it_read_or_write_what_is_not_its_own(driver: Path, tmp_path: Path, fuzzes: int) -> None:
    fuzz(driver, tmp_path, fuzzes)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["thread"], indirect=True)
def test_its_threads_never_race(driver: Path, tmp_path: Path) -> None:
    fuzz(driver, tmp_path, 100)


def test_filters_of_another_build_are_refused_rather_than_misread() -> None:
    session = NativeEngine(recurrent_of("s4d"), KEEP_ALL).begin(recurrent_of("s4d").initial_state(1))
    session._engine._packed_filters += bytes(8)
    with pytest.raises(UserError, match="the filters are not those that the engine knows"):
        session.advance(torch.tensor([0]), torch.zeros(1, 1, dtype=torch.float64))
