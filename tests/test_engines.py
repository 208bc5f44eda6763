"""Engines: all compute what the parallel pass does, and a session is a matter of its own rows alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engines import ENGINES_HERE, KINDS, PIXELS, WITH_COMPILED, model_of
from tiny import noisy_model, random_sequences
from torch import Tensor

from s4gen.cli import sample
from s4gen.errors import UserError
from s4gen.models.states import chosen_rows, tensors
from s4gen.sampling import engines
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import ENGINES, Engine, eager, graphed, make_engine, native
from s4gen.sampling.engines.compiled import CompiledEngine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.engines.graphed import GraphedSession
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.randomness import draw
from s4gen.showing.progress import say_once

FILTERS = Filters(temperature=0.9, top_k=9, top_p=0.95, min_p=0.01)


@pytest.fixture
def recurrent() -> RecurrentModel:
    return convert(noisy_model("s4d"))


def random_numbers(rows: int, steps: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first(recurrent: RecurrentModel, rows: int) -> Tensor:
    return torch.full((rows,), recurrent.bos)


def begun(name: str, recurrent: RecurrentModel, rows: int = 4, filters: Filters = KEEP_ALL) -> Any:
    engine = make_engine(name, recurrent, filters)
    assert engine.name == name
    return engine.begin(recurrent.initial_state(rows))


def same_state(one: object, other: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_fed_tokens_have_the_log_probabilities_of_the_parallel_pass(engine: str, kind: str) -> None:
    recurrent = convert(model_of(kind))
    x = random_sequences(recurrent.source, 4)
    session, token, scores = begun(engine, recurrent), first(recurrent, 4), []
    for target in x.unbind(1):
        logits = session.feed(token)
        assert logits.dtype == torch.float32 and logits.shape == (4, 11)
        scores.append(-logits.log_softmax(-1).gather(-1, target[:, None])[:, 0])
        token = target
    torch.testing.assert_close(torch.stack(scores, 1), recurrent.source.nats(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("filters", [KEEP_ALL, FILTERS], ids=["all", "filtered"])
def test_advance_draws_from_the_filtered_logits_of_what_it_fed(
    recurrent: RecurrentModel, engine: str, filters: Filters
) -> None:
    u = random_numbers(4, 40)
    drawn = begun(engine, recurrent, filters=filters).advance(first(recurrent, 4), u)
    assert drawn.shape == (4, 40) and drawn.dtype == torch.int64
    session, token = begun(engine, recurrent, filters=filters), first(recurrent, 4)
    for t in range(40):
        token = draw(filters(session.feed(token)), u[:, t])
        assert torch.equal(token, drawn[:, t])


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_several_short_calls_are_one_long_one(recurrent: RecurrentModel, engine: str) -> None:
    u = random_numbers(4, 20)
    whole, session = begun(engine, recurrent), begun(engine, recurrent)
    drawn = whole.advance(first(recurrent, 4), u)
    parts, token = [], first(recurrent, 4)
    for part in u.split([1, 7, 2, 10], dim=1):
        parts.append(session.advance(token, part))
        token = parts[-1][:, -1]
    assert torch.equal(torch.cat(parts, 1), drawn)
    assert same_state(session.state(), whole.state())


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_session_begun_with_the_state_of_another_goes_on_bit_for_bit(engine: str, kind: str) -> None:
    recurrent = convert(model_of(kind))
    runner, u = make_engine(engine, recurrent), random_numbers(4, 20)
    session = runner.begin(recurrent.initial_state(4))
    drawn = session.advance(first(recurrent, 4), u[:, :9])
    second = runner.begin(session.state())
    expected = session.advance(drawn[:, -1], u[:, 9:])
    assert torch.equal(second.advance(drawn[:, -1], u[:, 9:]), expected)
    assert torch.equal(second.feed(expected[:, -1]), session.feed(expected[:, -1]))


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_states_are_values(recurrent: RecurrentModel, engine: str) -> None:
    """What goes in stays as it is, and so does what came out."""
    session = begun(engine, recurrent)
    session.advance(first(recurrent, 4), random_numbers(4, 5))
    given = session.state()
    kept = [tensor.clone() for tensor in tensors(given)]
    other = make_engine(engine, recurrent).begin(given)
    for each in (session, other):
        each.feed(torch.zeros(4, dtype=torch.int64))
        each.advance(torch.zeros(4, dtype=torch.int64), random_numbers(4, 3))
    assert all(torch.equal(a, b) for a, b in zip(kept, tensors(given), strict=True))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_stand_at_different_places_and_do_not_disturb_each_other(engine: str, kind: str) -> None:
    recurrent = convert(model_of(kind))
    runner = make_engine(engine, recurrent)
    prompt = random_sequences(recurrent.source, 1)
    lengths = torch.arange(8) * 3 + 1
    _, state = recurrent.source.prefill(prompt.expand(8, -1), recurrent.initial_state(8), lengths)
    u, token = random_numbers(8, 12), torch.arange(8)
    together = runner.begin(state).advance(token, u)
    step = runner.row_multiple
    for start in range(0, 8, step):
        rows = slice(start, start + step)
        own = chosen_rows(state, torch.arange(8)[rows])
        assert torch.equal(runner.begin(own).advance(token[rows], u[rows]), together[rows])


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_what_a_session_returns_can_be_trained_on(recurrent: RecurrentModel, engine: str) -> None:
    session = begun(engine, recurrent)
    drawn = session.advance(first(recurrent, 4), random_numbers(4, 30))
    results = [drawn, session.feed(drawn[:, -1]), *tensors(session.state())]
    assert not any(tensor.is_inference() for tensor in results)
    noisy_model("s4d").nats(drawn).mean().backward()


def test_an_interrupted_eager_session_stands_where_it_stood(recurrent: RecurrentModel) -> None:
    class Interrupted(Filters):
        left = 3

        def __call__(self, logits: Tensor) -> Tensor:
            type(self).left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return logits

    session = EagerEngine(recurrent, Interrupted()).begin(recurrent.initial_state(4))
    with pytest.raises(KeyboardInterrupt):
        session.advance(first(recurrent, 4), random_numbers(4, 10))
    assert same_state(session.state(), recurrent.initial_state(4))


# Which engine


def test_the_command_line_offers_every_engine() -> None:
    parser = argparse.ArgumentParser()
    sample.add_arguments(parser)
    assert [action.choices for action in parser._actions if action.dest == "engine"] == [ENGINES]


def test_an_unknown_engine_is_refused(recurrent: RecurrentModel) -> None:
    with pytest.raises(UserError, match="there is no engine 'steam'; the engines are auto, eager, compiled, native"):
        make_engine("steam", recurrent)


def unavailable(recurrent: RecurrentModel, filters: Filters, weights: str = "fp32") -> Engine:
    raise native.NativeUnavailable("there is no C++ compiler here")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "NativeEngine", unavailable)
    say_once.cache_clear()


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["auto", "native", "native-bf16", "native-int8"])
def test_without_a_native_engine_one_line_says_so_once(
    recurrent: RecurrentModel, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_engine(name, recurrent).name == "eager"
    line = "s4gen: no native engine (there is no C++ compiler here), going on with the eager engine\n"
    assert capsys.readouterr() == ("", line)
    assert make_engine(name, recurrent).name == "eager"
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("no_compiler")
def test_auto_compiles_only_where_it_pays(recurrent: RecurrentModel) -> None:
    assert make_engine("auto", recurrent, tokens=64 * 784).name == "eager"
    assert make_engine("auto", recurrent, tokens=1000 * 784).name == "compiled"


def test_auto_says_nothing_of_a_model_that_no_compiler_would_help(capsys: pytest.CaptureFixture[str]) -> None:
    for mixer in ("attention", "lssl"):
        assert make_engine("auto", convert(noisy_model(mixer))).name == "eager"
    assert make_engine("auto", convert(noisy_model("attention")), tokens=10**9).name == "eager"
    assert capsys.readouterr() == ("", "")


def test_an_engine_is_set_up_once(recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is made once, and no engine that nobody asked for."""
    made: list[str] = []

    def counting(name: str, function: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            made.append(name)
            return function(*args, **options)

        return counted

    monkeypatch.setattr(native, "flatten", counting("plan", native.flatten))
    monkeypatch.setattr(native, "NativeEngine", counting("native", native.NativeEngine))
    monkeypatch.setattr(engines, "EagerEngine", counting("eager", EagerEngine))
    for name in ("auto", "native", "eager"):
        make_engine(name, recurrent)
    assert made == ["native", "plan", "native", "plan", "eager"]


def test_filters_that_the_eager_engine_alone_has_choose_it(
    recurrent: RecurrentModel, capsys: pytest.CaptureFixture[str]
) -> None:
    filters = Filters(repetition_penalty=2.0)
    for name in engines.ENGINES:
        engine = make_engine(name, recurrent, filters, tokens=10**9)
        assert (engine.name, engine.filters) == ("eager", filters)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(native.NativeUnavailable, match="does not have all of the filters"):
        native.NativeEngine(recurrent, filters)


def test_weights_are_part_of_the_native_engine_s_name(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def engine(recurrent: RecurrentModel, filters: Filters, weights: str) -> Engine:
        asked.append((filters, weights))
        return EagerEngine(recurrent, filters)

    monkeypatch.setattr(native, "NativeEngine", engine)
    for name in ("auto", "native", "native-bf16", "native-int8"):
        make_engine(name, recurrent, FILTERS)
    assert asked == [(FILTERS, weights) for weights in ("fp32", "fp32", "bf16", "int8")]


# The compiled engine, without its compiler


class FakeCompiler:
    """Takes the place of torch.compile: runs the function, and notes the shapes that the real one would compile for."""

    def __init__(self) -> None:
        self.shapes: list[list[tuple[int, ...]]] = []
        self.steps: list[Any] = []

    def __call__(self, function: Callable[..., Any], **options: bool) -> Callable[..., Any]:
        assert options == {"dynamic": False, "fullgraph": True}

        def compiled(*args: Any) -> Any:
            # Inference mode and strides are looked at too.
            shapes = [(*x.shape, *x.stride(), int(x.is_inference())) for x in tensors(args)]
            if shapes not in self.shapes:
                self.shapes.append(shapes)
            if function not in self.steps:
                self.steps.append(function)
            return function(*args)

        return compiled


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler()
    monkeypatch.setattr(torch, "compile", fake)
    return fake


def test_a_second_session_and_another_number_of_steps_compile_nothing(
    recurrent: RecurrentModel, compiler: FakeCompiler
) -> None:
    engine = CompiledEngine(recurrent, KEEP_ALL)
    for steps in (1, 2, 7):
        session = engine.begin(recurrent.initial_state(8))
        token = session.advance(first(recurrent, 8), random_numbers(8, steps))[:, -1]
        session.advance(token, random_numbers(8, steps))
    _, state = recurrent.prefill(random_sequences(recurrent.source, 8))
    engine.begin(state).advance(first(recurrent, 8), random_numbers(8, 3))
    with torch.inference_mode():
        engine.begin(recurrent.initial_state(8)).advance(first(recurrent, 8), random_numbers(8, 3))
    assert len(compiler.shapes) == 1


@pytest.mark.parametrize(
    ("kind", "steps"), [("sashimi", 3), ("pixels", 2), ("pixels, channels", 2), ("grey pixels", 1)]
)
def test_a_step_is_compiled_once_for_each_set_of_parts_that_can_be_due(
    kind: str, steps: int, compiler: FakeCompiler
) -> None:
    recurrent, u = convert(model_of(kind)), random_numbers(4, 30)
    engine = CompiledEngine(recurrent, KEEP_ALL)
    for _ in range(2):
        drawn = engine.begin(recurrent.initial_state(4)).advance(first(recurrent, 4), u)
        assert torch.equal(drawn, begun("eager", recurrent).advance(first(recurrent, 4), u))
    assert len(compiler.steps) == steps
    model = recurrent.stepper.state_dict(keep_vars=True)
    for step in compiler.steps:  # none has weights of its own
        compiled = step.__self__._recurrent.stepper.parameters()
        assert {id(p) for p in compiled} == {id(p) for p in model.values() if isinstance(p, torch.nn.Parameter)}


def test_fewer_rows_use_what_is_compiled_unless_they_are_far_fewer(
    recurrent: RecurrentModel, compiler: FakeCompiler
) -> None:
    engine, u = CompiledEngine(recurrent, KEEP_ALL), random_numbers(32, 6)
    expected = begun("eager", recurrent, 32).advance(first(recurrent, 32), u)
    for rows, compilations in ((32, 1), (12, 1), (8, 1), (4, 2), (8, 2)):
        session = engine.begin(recurrent.initial_state(rows))
        assert torch.equal(session.advance(first(recurrent, rows), u[:rows]), expected[:rows])
        assert [len(tensor) for tensor in tensors(session.state())] == [rows] * 3
        assert len(compiler.shapes) == compilations
        assert len(session.feed(expected[:rows, -1])) == rows
        compiler.shapes = [shapes for shapes in compiler.shapes if len(shapes) == 5]  # those of `advance`


def test_without_a_working_compiler_one_line_says_so_and_sampling_goes_on(
    recurrent: RecurrentModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("no C++ compiler\nlong explanation")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fails)
    engine, u = make_engine("compiled", recurrent), random_numbers(4, 6)
    drawn = engine.begin(recurrent.initial_state(4)).advance(first(recurrent, 4), u)
    line = "s4gen: torch.compile failed, going on with the eager engine (no C++ compiler)\n"
    assert capsys.readouterr() == ("", line)
    assert engine.name == "eager"
    assert torch.equal(drawn, begun("eager", recurrent).advance(first(recurrent, 4), u))


def test_attention_is_not_compiled_again_for_every_step(
    compiler: FakeCompiler, capsys: pytest.CaptureFixture[str]
) -> None:
    recurrent = convert(noisy_model("attention"))
    engine, u = make_engine("compiled", recurrent), random_numbers(4, 12)
    drawn = engine.begin(recurrent.initial_state(4)).advance(first(recurrent, 4), u)
    assert "going on with the eager engine (the state of attention grows" in capsys.readouterr().err
    assert (engine.name, compiler.shapes) == ("eager", [])
    assert torch.equal(drawn, begun("eager", recurrent).advance(first(recurrent, 4), u))


@pytest.mark.usefixtures("compiler")
def test_an_error_that_is_not_the_compiler_s_is_raised_as_itself(
    recurrent: RecurrentModel, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine("compiled", recurrent)
    with pytest.raises(IndexError):
        engine.begin(recurrent.initial_state(4)).feed(torch.full((4,), 10_000))
    assert capsys.readouterr().err == ""
    assert engine.name == "compiled"


# The CUDA graph's buffers, with a capture that only calls

STEPS = 40
"""That a buffer holds in these tests: more than a sequence has, and far fewer than in earnest."""


@pytest.fixture
def short_buffers(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "STEPS", STEPS)


def calls(function: Callable[[], None]) -> Callable[[], None]:
    """Like a capture, it runs the function a few times on whatever is in the buffers."""
    for _ in range(4):
        function()
    return function


def graphed_session(recurrent: RecurrentModel, rows: int, filters: Filters = KEEP_ALL) -> GraphedSession:
    return GraphedSession(CompiledEngine(recurrent, filters), recurrent.initial_state(rows), calls)


@pytest.mark.usefixtures("short_buffers")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[5], [STEPS], [STEPS + 1], [1, STEPS, 3]])
def test_a_graphed_session_computes_what_the_eager_one_does(kind: str, cuts: list[int]) -> None:
    recurrent = convert(model_of(kind))
    eager, session = begun("eager", recurrent, 4, FILTERS), graphed_session(recurrent, 4, FILTERS)
    token = first(recurrent, 4)
    for seed, steps in enumerate(cuts):
        u = random_numbers(4, steps, seed)
        drawn = session.advance(token, u)
        assert torch.equal(drawn, eager.advance(token, u))
        token = drawn[:, -1]
        assert same_state(session.state(), eager.state())
    assert torch.equal(session.feed(token), eager.feed(token))
    assert same_state(session.state(), eager.state())
    assert not any(tensor.is_inference() for tensor in (drawn, *tensors(session.state())))


@pytest.mark.usefixtures("short_buffers")
@pytest.mark.parametrize("kind", ["sashimi", *PIXELS])
def test_a_graphed_session_runs_the_parts_that_are_due_in_any_row(kind: str) -> None:
    recurrent = convert(model_of(kind))
    prompt, lengths, u = random_sequences(recurrent.source, 4), torch.arange(4), random_numbers(4, STEPS + 9)
    _, state = recurrent.source.prefill(prompt, None, lengths)
    session = GraphedSession(CompiledEngine(recurrent, KEEP_ALL), state, calls)
    expected = make_engine("eager", recurrent).begin(state).advance(first(recurrent, 4), u)
    assert torch.equal(session.advance(first(recurrent, 4), u), expected)


@pytest.mark.usefixtures("compiler")
def test_two_graphed_sessions_of_one_engine_do_not_share_buffers(recurrent: RecurrentModel) -> None:
    u = random_numbers(4, 12)
    engine = CompiledEngine(recurrent, KEEP_ALL)
    one, other = (GraphedSession(engine, recurrent.initial_state(4), calls) for _ in range(2))
    drawn = one.advance(first(recurrent, 4), u[:, :6])
    other.advance(torch.zeros(4, dtype=torch.int64), u)
    expected = begun("eager", recurrent).advance(first(recurrent, 4), u)
    assert torch.equal(torch.cat([drawn, one.advance(drawn[:, -1], u[:, 6:])], 1), expected)


@pytest.mark.usefixtures("compiler")
def test_a_graphed_session_leaves_its_tensors_where_they_are(recurrent: RecurrentModel) -> None:
    """A replay reads and writes the addresses of the capture."""
    session = graphed_session(recurrent, 4)
    buffers = [session._token, session._u, session._drawn, session._column, *tensors(session._state)]
    before = [buffer.data_ptr() for buffer in buffers]
    session.advance(first(recurrent, 4), random_numbers(4, 9))
    session.feed(first(recurrent, 4))
    after = [session._token, session._u, session._drawn, session._column, *tensors(session._state)]
    assert [buffer.data_ptr() for buffer in after] == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_step_in_place_compiles(recurrent: RecurrentModel, capsys: pytest.CaptureFixture[str]) -> None:
    session, u = graphed_session(recurrent, 4, FILTERS), random_numbers(4, 30)
    expected = begun("eager", recurrent, 4, FILTERS).advance(first(recurrent, 4), u)
    assert torch.equal(session.advance(first(recurrent, 4), u), expected)
    assert capsys.readouterr().err == ""


def test_few_rows_of_a_small_model_are_stepped_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model = convert(noisy_model("s4d"))
    parameters = sum(parameter.numel() for parameter in model.stepper.parameters())
    monkeypatch.setattr(eager, "ONE_THREAD", 3 * parameters)
    step = RecurrentModel.step

    def watched(self: RecurrentModel, *arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return step(self, *arguments)

    monkeypatch.setattr(RecurrentModel, "step", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for rows in (2, 3):
            session = EagerEngine(model, KEEP_ALL).begin(model.initial_state(rows))
            session.advance(torch.full((rows,), model.bos), torch.zeros(rows, 1, dtype=torch.float64))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]
