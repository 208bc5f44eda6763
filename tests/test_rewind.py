"""States are values: a fork is two runs, and whoever goes back has never gone on."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from engines import KINDS, WITH_COMPILED, model_of
from test_generation import Recording
from tiny import noisy_model
from tiny_audio import sounding_model
from torch import Tensor

from s4gen.models.states import leaves
from s4gen.sampling.checkpoints import Checkpoints, Trail
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines.eager import EagerSession
from s4gen.sampling.filters import Filters
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompts import Start

FILTERS = {
    "none": Filters(),
    "some": Filters(temperature=0.8, top_k=7, min_p=0.01),
    "penalty": Filters(repetition_penalty=1.7),
}
PROMPT = torch.tensor([1, 5, 3, 3, 0])


@pytest.fixture(scope="module")
def recurrent() -> RecurrentModel:
    return convert(noisy_model("s4d"))


def begun(
    model: RecurrentModel, engine: str, name: str = "none", every: int = 4, most: int = 4, n: int = 3
) -> Generation:
    rule = Checkpoints(every, most)
    return Generation.start(model, n, seed=5, prompt=PROMPT, filters=FILTERS[name], engine=engine, checkpoints=rule)


def take(generation: Generation, count: int) -> Tensor:
    return torch.cat([*generation.chunks(count)], dim=1)


# Forks


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("name", FILTERS)
def test_a_fork_is_two_runs(recurrent: RecurrentModel, engine: str, name: str) -> None:
    """Each draws what it would have drawn alone, in whatever order they go on."""
    alone = take(begun(recurrent, engine, name), 40)
    first = begun(recurrent, engine, name)
    assert torch.equal(take(first, 11), alone[:, :11])
    second = first.fork()
    assert torch.equal(take(second, 5), alone[:, 11:16])
    assert torch.equal(take(first, 29), alone[:, 11:])
    third = second.fork()
    second.keep([2, 0])
    assert torch.equal(take(third, 24), alone[:, 16:])
    assert torch.equal(take(second, 24), alone[[2, 0], 16:])


@pytest.mark.parametrize("kind", [*KINDS, "attention", "lssl"])
def test_a_fork_of_every_kind_of_state(kind: str) -> None:
    model, engine = convert(model_of(kind)), "auto" if kind in KINDS else "eager"
    alone = take(begun(model, engine), 25)
    first = begun(model, engine)
    take(first, 9)
    second = first.fork()
    assert torch.equal(take(first, 16), alone[:, 9:]) and torch.equal(take(second, 16), alone[:, 9:])
    second.rewind(18)
    assert torch.equal(take(second, 18), alone[:, 7:])


def test_a_fork_with_another_seed_is_a_run_of_that_seed_from_there(recurrent: RecurrentModel) -> None:
    """It equals a run that was given all tokens up to there as a prompt."""
    first = begun(recurrent, "eager")
    head = take(first, 7)
    other = first.fork(seed=6)
    prompt = torch.cat([PROMPT.expand(3, -1), head], dim=1)
    given = Generation.start(recurrent, 3, seed=6, prompt=prompt)
    drawn = take(other, 20)
    assert torch.equal(drawn, take(given, 20))
    assert not torch.equal(drawn, take(first, 20))
    other.rewind(20)
    assert torch.equal(take(other, 20), drawn)
    with pytest.raises(ValueError, match="rewind\\(21\\): beyond the start, behind which 20 tokens"):
        other.rewind(21)


def test_a_fork_in_the_middle_of_a_stream_begins_at_the_token_that_was_handed_out_last(
    recurrent: RecurrentModel,
) -> None:
    for checkpoints in (Checkpoints(every=8), None):
        generation = Generation.start(recurrent, 2, seed=5, checkpoints=checkpoints)
        generation._pace.steps = 16
        alone = take(Generation.start(recurrent, 2, seed=5), 20)
        head = torch.stack([*itertools.islice(generation.stream(), 3)], dim=1)
        assert generation._ready.shape[1] > generation._given  # tokens wait
        assert torch.equal(torch.cat([head, take(generation.fork(), 17)], dim=1), alone)
        if checkpoints is None:
            with pytest.raises(ValueError, match="tokens are drawn already and not handed out"):
                generation.fork(seed=9)
        else:
            given = Generation.start(recurrent, 2, seed=9, prompt=head)
            assert torch.equal(take(generation.fork(seed=9), 17), take(given, 17))
        assert torch.equal(take(generation, 17), alone[:, 3:])


def test_labels_go_along() -> None:
    model = convert(sounding_model("sashimi"))
    labels = torch.tensor([0, 2])

    def new() -> Generation:
        return Generation.start(model, 2, seed=1, labels=labels, engine="auto", checkpoints=Checkpoints(8))

    alone, generation = take(new(), 30), new()
    take(generation, 21)
    assert torch.equal(take(generation.fork(), 9), alone[:, 21:])
    generation.rewind(14)
    assert torch.equal(take(generation, 23), alone[:, 7:])


# Going back


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("name", FILTERS)
def test_who_goes_back_has_never_gone_on(recurrent: RecurrentModel, engine: str, name: str) -> None:
    alone = take(begun(recurrent, engine, name), 60)
    generation, at = begun(recurrent, engine, name), 0
    for ahead, back in ((13, 2), (5, 16), (40, 1), (3, 0), (2, 33), (8, 8), (17, 26)):
        assert torch.equal(take(generation, ahead), alone[:, at : at + ahead])
        generation.rewind(back)
        at += ahead - back
    assert torch.equal(take(generation, 60 - at), alone[:, at:])


def test_the_state_itself_is_as_if_it_had_never_gone_on(recurrent: RecurrentModel) -> None:
    generation, short = (begun(recurrent, "eager", "penalty") for _ in range(2))
    take(generation, 30)
    take(short, 19)
    generation.rewind(11)
    for a, b in zip(leaves(generation._where()), leaves(short._where()), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_tokens_that_wait_are_not_counted(recurrent: RecurrentModel) -> None:
    alone = take(begun(recurrent, "eager"), 30)
    generation = begun(recurrent, "eager", every=16)
    generation._pace.steps = 16
    for drawn in generation.stream(3):
        assert torch.equal(drawn, drawn)
    generation.rewind(2)
    assert torch.equal(take(generation, 20), alone[:, 1:21])


def test_a_reader_of_a_stream_sees_that_it_went_back(recurrent: RecurrentModel) -> None:
    alone = take(begun(recurrent, "eager"), 6)
    generation, seen = begun(recurrent, "eager"), []
    for drawn in generation.stream(8):
        seen.append(drawn)
        if len(seen) == 4:
            generation.rewind(2)
    assert torch.equal(torch.stack(seen, dim=1), torch.cat([alone[:, :4], alone[:, 2:6]], dim=1))


def test_rows_that_are_dropped_are_dropped_from_what_was_kept(recurrent: RecurrentModel) -> None:
    alone = take(begun(recurrent, "eager", n=5), 40)
    generation = begun(recurrent, "eager", n=5)
    take(generation, 22)
    generation.keep([4, 1])
    take(generation, 3)
    generation.rewind(18)
    assert torch.equal(take(generation, 33), alone[[4, 1], 7:])


def test_little_is_drawn_again(recurrent: RecurrentModel) -> None:
    engine = Recording(recurrent)
    generation = Generation.start(recurrent, 1, seed=5, engine=engine, checkpoints=Checkpoints(every=8, most=100))
    take(generation, 100)
    engine.asked.clear()
    generation.rewind(30)  # to 70; 64 was kept
    assert sum(steps for _, steps in engine.asked) == 6


@pytest.mark.parametrize("tokens", [13, 10**30])
def test_beyond_the_start(recurrent: RecurrentModel, tokens: int) -> None:
    generation = begun(recurrent, "eager")
    head = take(generation, 12)
    with pytest.raises(ValueError, match=rf"^rewind\({tokens}\): beyond the start, behind which 12 tokens"):
        generation.rewind(tokens)
    rest = take(generation, 8)
    generation.rewind(20)
    assert torch.equal(take(generation, 20), torch.cat([head, rest], dim=1))


def test_refusals(recurrent: RecurrentModel) -> None:
    generation = Generation.start(recurrent, 1, seed=1)
    take(generation, 3)
    generation.rewind(0)
    with pytest.raises(ValueError, match="no states were kept"):
        generation.rewind(1)
    with pytest.raises(ValueError, match="expected a number of tokens to go back"):
        generation.rewind(-1)
    for every, most in ((0, 4), (4, 0), (-1, 1)):
        with pytest.raises(ValueError, match="expected at least 1 of both"):
            Checkpoints(every, most)


def test_a_generation_that_was_saved_goes_back_to_where_it_was_saved(recurrent: RecurrentModel, tmp_path: Path) -> None:
    alone = take(begun(recurrent, "eager"), 30)
    generation = begun(recurrent, "eager", every=16)
    generation._pace.steps = 16
    next(generation.stream())  # others wait
    generation.save(tmp_path / "saved")
    loaded = Generation.load(tmp_path / "saved", recurrent, checkpoints=Checkpoints(4))
    with pytest.raises(ValueError, match="behind which 0 tokens"):
        loaded.rewind(1)
    with pytest.raises(ValueError, match="not handed out"):
        loaded.fork(seed=3)
    assert torch.equal(take(loaded, 29), alone[:, 1:])
    loaded.rewind(9)
    assert torch.equal(take(loaded, 9), alone[:, 21:])


def test_an_interrupt_leaves_it_where_it_was(recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = take(begun(recurrent, "eager"), 30)
    generation = begun(recurrent, "eager", most=1)
    take(generation, 20)
    advance, calls = EagerSession.advance, iter(range(100))

    def interrupted(self: EagerSession, token: Tensor, u: Tensor) -> Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return advance(self, token, u)

    with monkeypatch.context() as patch:
        patch.setattr(EagerSession, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generation.rewind(5)
    assert torch.equal(take(generation, 10), alone[:, 20:])
    generation.rewind(15)
    assert torch.equal(take(generation, 15), alone[:, 15:])


# What is kept


@pytest.mark.parametrize(("every", "most"), [(1, 2), (1, 16), (10, 5), (256, 16)])
def test_memory_is_bounded_and_the_way_back_is_short(recurrent: RecurrentModel, every: int, most: int) -> None:
    """Never more states than `most`; going back n tokens begins at most about n tokens before."""
    start = Start(torch.zeros(1, dtype=torch.int64), recurrent.initial_state(1))
    trail, drawn = Trail(Checkpoints(every, most), start), 0
    for _ in range(3000):
        drawn += every
        trail.pass_by(drawn, lambda: start)
        assert len(trail) <= most
    assert trail.before(0)[0] == 0  # the start stays
    if most >= 16:
        for back in range(1, drawn, every):
            assert drawn - back - trail.before(drawn - back)[0] <= 2 * every + 2 * back
    assert trail.before(drawn)[0] == drawn


def test_states_are_kept_only_where_somebody_asked_for_them(recurrent: RecurrentModel) -> None:
    assert Generation.start(recurrent, 1, seed=1)._trail is None
    generation = begun(recurrent, "eager", every=4, most=3)
    take(generation, 103)
    assert generation._trail is not None and len(generation._trail) == 3
    one = begun(recurrent, "eager", most=1)
    take(one, 50)
    assert one._trail is not None and len(one._trail) == 1
