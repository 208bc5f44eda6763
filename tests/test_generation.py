"""Generations under way: prompts of any lengths, forks, stop tokens, suspension; none of it changes what is drawn."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import signal
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from engines import ENGINES_HERE, PIXELS, WITH_COMPILED, model_of
from safetensors import safe_open
from tiny import noisy_model, random_sequences
from tiny_audio import SOUNDING, sounding_model
from torch import Tensor

from s4gen.bench.instruments import process_peak_mb
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.models.density import ModelState
from s4gen.models.states import tensors
from s4gen.sampling import generate as generate_module
from s4gen.sampling import generation as generation_module
from s4gen.sampling import prompts as prompts_module
from s4gen.sampling import suspend
from s4gen.sampling.chunking import SECONDS, Pace
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.engines.eager import EagerEngine, EagerSession
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.generate import ENDLESS, complete, generate, stream
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompts import checked_prompts, read_prompts
from s4gen.sampling.randomness import Uniforms, draw, uniforms

SSM_MIXERS = ["s4d", "s4"]
LENGTHS = [0, 7, 1, 40, 13, 29, 2, 16, 17]
FILTERS = Filters(temperature=0.9, top_k=9, top_p=0.95, min_p=0.01)


@pytest.fixture(scope="module")
def recurrent() -> RecurrentModel:
    return convert(noisy_model("s4d", d_model=16))


@functools.cache
def converted(kind: str) -> RecurrentModel:
    """One model for all tests that only read it."""
    return convert(model_of(kind) if kind in PIXELS else noisy_model(kind, d_model=16))


def prompts_of(recurrent: RecurrentModel, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, recurrent.config.layout.vocab, (length,), generator=generator) for length in lengths]


@torch.inference_mode()
def by_definition(
    recurrent: RecurrentModel, prompt: Tensor, sequence: int, seed: int, count: int, label: int | None = None
) -> Tensor:
    """One sequence, every token fed through `step`, the prompt's too; the next `count` tokens drawn."""
    u = uniforms(seed, [sequence], len(prompt) + count)
    state = recurrent.initial_state(4, None if label is None else torch.full((4,), label))
    known = [recurrent.bos, *prompt.tolist()]
    for t in range(len(prompt) + count):
        logits, state = recurrent.step(torch.full((4,), known[t]), state)
        if t >= len(prompt):
            known.append(int(draw(logits[:1], u[:, t])))
    return torch.tensor(known[1:])


class Recording:
    """An eager engine that notes how many rows and steps it is asked for."""

    name = "recording"

    def __init__(self, recurrent: RecurrentModel, filters: Filters = KEEP_ALL, row_multiple: int = 4) -> None:
        self.row_multiple, self.filters = row_multiple, filters
        self.asked: list[tuple[int, ...]] = []
        self._engine = EagerEngine(recurrent, filters)

    def begin(self, state: ModelState) -> EagerSession:
        session, asked = self._engine.begin(state), self.asked
        advance = session.advance

        def recorded(token: Tensor, u: Tensor) -> Tensor:
            asked.append(tuple(u.shape))
            return advance(token, u)

        session.advance = recorded  # type: ignore[method-assign]
        return session


# Random numbers


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 5, 63, 64, 1001])
def test_numbers_do_not_depend_on_where_reading_began(position: int) -> None:
    """Bit for bit those of the whole stream, in pieces of any size."""
    sequences = [0, 5, 2**40]
    whole = uniforms(7, sequences, position + 200)
    for pieces in ([200], [1] * 200, [3, 64, 1, 132]):
        numbers, at = Uniforms(7, sequences, [position] * 3), position
        for count in pieces:
            assert torch.equal(numbers.peek(count), whole[:, at : at + count])
            assert torch.equal(numbers.peek(count), whole[:, at : at + count])  # spent only by `skip`
            numbers.skip(count)
            at += count


def test_rows_read_from_positions_of_their_own() -> None:
    whole = uniforms(1, [4, 9], 1000)
    assert torch.equal(Uniforms(1, [4, 9], [3, 900]).peek(5), torch.stack([whole[0, 3:8], whole[1, 900:905]]))


def test_far_numbers_need_none_of_those_before() -> None:
    assert 0 <= float(Uniforms(1, [0], [10**15 + 3]).peek(1)) < 1
    assert float(Uniforms(1, [0], [10**15 + 3]).peek(1)) == float(Uniforms(1, [0], [10**15]).peek(4)[0, 3])


# Prompts


@pytest.mark.parametrize("kind", [*SSM_MIXERS, *PIXELS])
def test_prompts_of_unequal_lengths_are_continued_as_each_alone(kind: str) -> None:
    recurrent = converted(kind)
    prompts = prompts_of(recurrent)
    alone = [by_definition(recurrent, prompt, i, 2, 20) for i, prompt in enumerate(prompts)]
    for engine in ENGINES_HERE:
        together = complete(recurrent, prompts, seed=2, max_tokens=20, engine=engine)
        for completed, expected in zip(together, alone, strict=True):
            assert torch.equal(completed, expected), engine


@pytest.mark.parametrize("engine", WITH_COMPILED)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_do_not_show_in_completions(recurrent: RecurrentModel, engine: str, batch_size: int) -> None:
    settings: dict[str, Any] = {"seed": 2, "max_tokens": 20, "engine": engine, "filters": FILTERS}
    prompts = prompts_of(recurrent)
    together = complete(recurrent, prompts, **settings)
    split = complete(recurrent, prompts, batch_size=batch_size, **settings)
    assert all(torch.equal(a, b) for a, b in zip(together, split, strict=True))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("mixer", SSM_MIXERS)
@pytest.mark.parametrize("chunk", [8, 16, 4096])
def test_a_row_is_read_bit_for_bit_alike_whatever_is_read_beside_it(
    mixer: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal tokens could be luck; equal states are the reason. Here at the width of a real model."""
    monkeypatch.setattr(prompts_module, "CHUNK", chunk)
    recurrent = convert(noisy_model(mixer, d_model=128))
    prompts = checked_prompts(recurrent, prompts_of(recurrent))
    together = read_prompts(recurrent, prompts)
    monkeypatch.setattr(prompts_module, "_TOKENS", 1)  # four rows at a time
    alone = [read_prompts(recurrent, prompts.part(range(i, i + 1))) for i in range(len(LENGTHS))]
    for i, part in enumerate(alone):
        assert all(torch.equal(a[i], b[0]) for a, b in zip(tensors(together), tensors(part), strict=True))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("chunk", [33, 4096])
def test_a_row_is_read_bit_for_bit_alike_at_every_level(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a short chunk the coarse levels see so little that products could be rounded by the number of rows."""
    monkeypatch.setattr(prompts_module, "CHUNK", chunk)
    torch.manual_seed(0)
    model = ModelConfig(d_model=16, n_layers=1, d_ff=0, pool=(4, 4))
    recurrent = convert(build_model(DensityConfig(AudioLayout(400, classes=("a", "b")), model, SSMConfig(d_state=4))))
    prompts = checked_prompts(recurrent, prompts_of(recurrent, [0, 7, 65, 1, 70, 16]), torch.tensor([0, 1] * 3))
    together = read_prompts(recurrent, prompts)
    monkeypatch.setattr(prompts_module, "_TOKENS", 1)
    for i in range(6):
        alone = read_prompts(recurrent, prompts.part(range(i, i + 1)))
        assert all(torch.equal(a[i], b[0]) for a, b in zip(tensors(together), tensors(alone), strict=True))


@pytest.mark.parametrize("kind", [*SSM_MIXERS, *PIXELS])
@pytest.mark.parametrize("chunk", [1, 8, 16, 39])
def test_chunks_do_not_change_what_is_read(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose prompt has ended keeps its state while the others read on."""
    recurrent = converted(kind)
    prompts = checked_prompts(recurrent, prompts_of(recurrent))
    whole = read_prompts(recurrent, prompts)
    monkeypatch.setattr(prompts_module, "CHUNK", chunk)
    in_chunks = read_prompts(recurrent, prompts)
    assert torch.equal(in_chunks.token, whole.token)
    assert torch.equal(in_chunks.state.position, torch.tensor(LENGTHS))
    for a, b in zip(tensors(in_chunks.state.blocks), tensors(whole.state.blocks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("chunk", [16, 4096])
def test_a_row_of_pixels_is_read_bit_for_bit_alike_whatever_is_read_beside_it(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An axial layer computes the rows together that stand at the same place: they may be few."""
    monkeypatch.setattr(prompts_module, "CHUNK", chunk)
    recurrent = convert(model_of(kind))
    prompts = checked_prompts(recurrent, prompts_of(recurrent))
    together = read_prompts(recurrent, prompts)
    monkeypatch.setattr(prompts_module, "_TOKENS", 1)
    for i in range(len(LENGTHS)):
        alone = read_prompts(recurrent, prompts.part(range(i, i + 1)))
        assert all(torch.equal(a[i], b[0]) for a, b in zip(tensors(together), tensors(alone), strict=True))


@pytest.mark.parametrize("kind", SOUNDING)
@pytest.mark.parametrize("chunk", [7, 39])
def test_a_chunk_ends_anywhere_in_a_window(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recurrent = convert(sounding_model(kind))
    prompts = prompts_of(recurrent, [40, 11, 0, 78])
    monkeypatch.setattr(prompts_module, "CHUNK", chunk)
    start = read_prompts(recurrent, checked_prompts(recurrent, prompts, torch.tensor([0, 1, 2, 1])))
    for row, (prompt, label) in enumerate(zip(prompts, [0, 1, 2, 1], strict=True)):
        state = recurrent.initial_state(1, torch.tensor([label]))
        for token in [recurrent.bos, *prompt.tolist()]:
            logits, state = recurrent.step(torch.tensor([token]), state)
        read, after = recurrent.step(start.token, start.state)
        torch.testing.assert_close(read[row], logits[0], rtol=1e-4, atol=1e-4)
        for a, b in zip(tensors(after), tensors(state), strict=True):
            torch.testing.assert_close(a[row], b[0], rtol=1e-4, atol=1e-4)


def test_a_prompt_longer_than_a_sequence_is_read_in_bounded_pieces(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places are periodic, so a prompt may have any length."""
    monkeypatch.setattr(prompts_module, "CHUNK", 32)
    monkeypatch.setattr(prompts_module, "_TOKENS", 256)
    shapes = []
    read = recurrent.source.prefill

    def recorded(x: Tensor, *args: Any) -> Any:
        shapes.append(tuple(x.shape))
        return read(x, *args)

    monkeypatch.setattr(recurrent.source, "prefill", recorded)
    prompts = prompts_of(recurrent, [1000] * 13)
    completed = complete(recurrent, prompts, seed=0, max_tokens=3)
    assert max(rows * length for rows, length in shapes) == 256
    assert torch.equal(completed[5], by_definition(recurrent, prompts[5], 5, 0, 3))


@pytest.mark.parametrize("mixer", ["attention", "lssl"])
def test_a_model_whose_rows_are_of_one_length_says_so(mixer: str) -> None:
    recurrent = convert(noisy_model(mixer))
    sentence = f"the prompts have 3 to 5 tokens, and a model of {mixer} takes rows of one length"
    with pytest.raises(UserError, match=sentence):
        complete(recurrent, prompts_of(recurrent, [3, 5]), seed=0, max_tokens=4)
    prompts = prompts_of(recurrent, [5, 5])
    for i, completed in enumerate(complete(recurrent, prompts, seed=0, max_tokens=4)):
        assert torch.equal(completed, by_definition(recurrent, prompts[i], i, 0, 4))


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("kind", [*SSM_MIXERS, *PIXELS])
@pytest.mark.parametrize("given", [0, 1, 13])
def test_a_fork_is_bit_for_bit_equal_prompts(engine: str, kind: str, given: int) -> None:
    recurrent = converted(kind)
    prompt = random_sequences(recurrent.source, 1)[:, :given]
    settings: dict[str, Any] = {"seed": 4, "engine": engine}
    separate = generate(recurrent, 6, prompt=prompt.expand(6, -1), **settings)
    for one in (prompt, prompt[0]):
        assert torch.equal(generate(recurrent, 6, prompt=one, **settings), separate)
        assert torch.equal(generate(recurrent, 6, prompt=one, batch_size=4, **settings), separate)
        tokens = torch.stack([*stream(recurrent, 6, prompt=one, **settings)], dim=1)
        assert torch.equal(tokens, separate[:, given:])
    assert len(separate.unique(dim=0)) == 6


def test_a_forked_prompt_is_read_once_for_all_batches(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    read = recurrent.source.prefill

    def recorded(x: Tensor, *args: Any) -> Any:
        shapes.append(tuple(x.shape))
        return read(x, *args)

    monkeypatch.setattr(recurrent.source, "prefill", recorded)
    generate(recurrent, 12, seed=0, prompt=random_sequences(recurrent.source, 1)[0, :9], batch_size=4)
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompts": [torch.zeros(2, 3, dtype=torch.int64)]}, r"prompt 0 has shape \(2, 3\); expected \(P,\)"),
        ({"prompts": [torch.tensor([1]), torch.tensor([4, 11])]}, "prompt 1 has tokens from 4 to 11; the model knows"),
        ({"prompts": [torch.zeros(2)]}, "prompt 0 has type torch.float32"),
        ({"stop": {3, 11}}, "the stop token is 11; the model knows 0 to 10"),
        ({"max_tokens": -1}, "max_tokens is -1, it must be at least 0"),
        ({"batch_size": 0}, "in batches of 0"),
        ({"engine": "steam"}, "there is no engine 'steam'"),
    ],
)
def test_completions_out_of_range_are_refused(
    recurrent: RecurrentModel, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        complete(recurrent, **{"prompts": [torch.tensor([1])], "seed": 0, "max_tokens": 5, **arguments})


def test_nothing_asked_is_nothing_done(recurrent: RecurrentModel) -> None:
    assert complete(recurrent, [], seed=0, max_tokens=5) == []
    prompts = prompts_of(recurrent, [3, 0])
    completed = complete(recurrent, prompts, seed=0, max_tokens=0)
    assert all(torch.equal(a, b) for a, b in zip(completed, prompts, strict=True))
    assert list(stream(recurrent, 2, seed=0, max_tokens=0)) == []


# Labels

LABELS = [2, 0, 1, 1, 0, 2, 2, 0, 1]


@pytest.mark.parametrize("kind", SOUNDING)
def test_each_sequence_is_of_its_own_class(kind: str) -> None:
    """Through a prompt of its own length and behind it; windows of all rows are at other places."""
    recurrent, labels = convert(sounding_model(kind)), torch.tensor(LABELS)
    prompts = prompts_of(recurrent)
    alone = [by_definition(recurrent, prompt, i, 2, 20, LABELS[i]) for i, prompt in enumerate(prompts)]
    for engine in ENGINES_HERE:
        settings: dict[str, Any] = {"seed": 2, "max_tokens": 20, "labels": labels, "engine": engine}
        for batch_size in (64, 4):
            completions = complete(recurrent, prompts, batch_size=batch_size, **settings)
            for completed, expected in zip(completions, alone, strict=True):
                assert torch.equal(completed, expected), (engine, batch_size)


@pytest.mark.parametrize("given", [0, 1, 13])
def test_a_fork_into_classes_is_bit_for_bit_equal_prompts(given: int) -> None:
    recurrent, labels = convert(sounding_model("sashimi", rate=100)), torch.tensor([2, 0, 2, 2, 0])
    prompt = random_sequences(recurrent.source, 1)[:, :given]
    settings: dict[str, Any] = {"seed": 4, "labels": labels}
    separate = generate(recurrent, 5, prompt=prompt.expand(5, -1), **settings)
    for one in (prompt, prompt[0]):
        assert torch.equal(generate(recurrent, 5, prompt=one, batch_size=2, **settings), separate)
        tokens = torch.stack([*stream(recurrent, 5, prompt=one, **settings)], dim=1)
        assert torch.equal(tokens, separate[:, given:])
        drawn = torch.stack([*Generation.start(recurrent, 5, prompt=one, **settings).stream(20)], dim=1)
        assert torch.equal(drawn, separate[:, given : given + 20])
    for i, label in enumerate(labels.tolist()):
        assert torch.equal(separate[i, : given + 30], by_definition(recurrent, prompt[0], i, 4, 30, label))


def test_a_forked_prompt_is_read_once_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    recurrent, rows = convert(sounding_model("s4d", rate=100)), list[Any]()
    read = recurrent.source.prefill

    def recorded(x: Tensor, state: ModelState, *args: Any) -> Any:
        rows.append(state.label)
        return read(x, state, *args)

    monkeypatch.setattr(recurrent.source, "prefill", recorded)
    monkeypatch.setattr(prompts_module, "row_multiple", lambda d_state: 1)
    generate(recurrent, 12, seed=0, prompt=torch.arange(9), labels=torch.tensor([2, 0] * 6), batch_size=4)
    assert len(rows) == 1 and torch.equal(rows[0], torch.tensor([0, 2]))


def test_without_labels_all_are_of_the_first_class() -> None:
    recurrent = convert(sounding_model("s4d", rate=100))
    labelled = generate(recurrent, 3, seed=0, labels=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(generate(recurrent, 3, seed=0), labelled)
    assert not torch.equal(generate(recurrent, 3, seed=0, labels=torch.ones(3, dtype=torch.int64)), labelled)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([0, 3]), "the labels are from 0 to 3; the model knows 0 to 2"),
        (torch.tensor([-1, 0]), "the labels are from -1 to 0; the model knows 0 to 2"),
        (torch.tensor([0]), r"the labels have shape \(1,\) .*; expected whole numbers \(2,\), one for each sequence"),
        (torch.tensor([0.0, 1.0]), "type torch.float32; expected whole numbers"),
    ],
)
def test_labels_that_the_model_does_not_know_are_refused(labels: Tensor, sentence: str) -> None:
    recurrent = convert(sounding_model("s4d"))
    with pytest.raises(UserError, match=sentence):
        generate(recurrent, 2, seed=0, labels=labels)
    with pytest.raises(UserError, match=sentence):
        complete(recurrent, prompts_of(recurrent, [1, 2]), seed=0, max_tokens=1, labels=labels)
    with pytest.raises(UserError, match="the model is not conditional on labels"):
        generate(convert(sounding_model("s4d", classes=())), 2, seed=0, labels=labels)


# Stop tokens


def cut(sequence: Tensor, given: int, stop: set[int]) -> Tensor:
    """A sequence through the first stop token after its prompt."""
    places = [t for t in range(given, len(sequence)) if int(sequence[t]) in stop]
    return sequence[: places[0] + 1] if places else sequence


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_sequence_ends_with_its_first_stop_token(recurrent: RecurrentModel, engine: str, batch_size: int) -> None:
    """And up to there it is what it is without: neither the stop nor the rows left out show."""
    prompts = prompts_of(recurrent, [*LENGTHS, *LENGTHS])
    settings: dict[str, Any] = {"seed": 5, "max_tokens": 25, "engine": engine}
    endless = complete(recurrent, prompts, **settings)
    for stop in ({3}, {0, 7}, {9}, set(range(11))):
        stopped = complete(recurrent, prompts, **settings, stop=stop, batch_size=batch_size)
        for prompt, with_stop, without in zip(prompts, stopped, endless, strict=True):
            assert torch.equal(with_stop, cut(without, len(prompt), stop))
        assert any(len(a) < len(b) for a, b in zip(stopped, endless, strict=True))


def test_rows_that_have_stopped_cost_nothing_any_more(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_module, "Pace", lambda: Fixed(1))
    engine = Recording(recurrent, row_multiple=1)
    stopped = complete(
        recurrent, [torch.tensor([], dtype=torch.int64)] * 32, seed=5, max_tokens=200, stop={0}, engine=engine
    )
    rows = [asked for asked, _ in engine.asked]
    assert rows[0] == 32 and rows == sorted(rows, reverse=True) and len(set(rows)) > 3
    assert all(after <= before / 2 for before, after in itertools.pairwise(dict.fromkeys(rows)))
    needed, computed = sum(map(len, stopped)), sum(rows * steps for rows, steps in engine.asked)
    assert computed < 2 * needed < 32 * len(rows)


@pytest.mark.parametrize("way", ["stream", "chunks"])
def test_a_generation_goes_on_with_the_rows_that_are_kept(
    recurrent: RecurrentModel, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of a stream too: what its reader has not seen of the rows left out, it does not see."""
    monkeypatch.setattr(generation_module, "Pace", lambda: Fixed(8))
    whole = generate(recurrent, 9, seed=1)
    generation = Generation.start(recurrent, 9, seed=1)
    tokens = generation.stream(30)
    assert torch.equal(torch.stack([*itertools.islice(tokens, 3)], dim=1), whole[:, :3])
    assert torch.equal(torch.cat([*generation.chunks(1)], dim=1), whole[:, 3:4])
    assert torch.equal(next(tokens), whole[:, 4])
    generation.keep([7, 2, 3])
    assert len(generation) == 3
    rest = torch.stack([*tokens], dim=1) if way == "stream" else torch.cat([*generation.chunks(25)], dim=1)
    assert torch.equal(rest[:, :25], whole[[7, 2, 3], 5:])
    assert rest.shape[1] == (26 if way == "stream" else 25)  # the stream has yielded four of its thirty


# Streams


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_a_stream_goes_on_beyond_the_length_of_a_sequence(recurrent: RecurrentModel, engine: str) -> None:
    tokens = torch.stack([*stream(recurrent, 3, seed=6, engine=engine, max_tokens=75)], dim=1)
    assert torch.equal(tokens[:, :30], generate(recurrent, 3, seed=6, engine=engine))
    for i in range(3):
        assert torch.equal(tokens[i], by_definition(recurrent, torch.tensor([]), i, 6, 75))


def test_an_endless_stream_ends_when_its_reader_does(recurrent: RecurrentModel) -> None:
    tokens = stream(recurrent, 2, seed=6, max_tokens=ENDLESS)
    head = torch.stack([*itertools.islice(tokens, 100)], dim=1)
    assert torch.equal(head, torch.stack([*stream(recurrent, 2, seed=6, max_tokens=100)], dim=1))


def test_a_long_prompt_needs_to_be_told_how_many_tokens_follow(recurrent: RecurrentModel) -> None:
    prompt = torch.zeros(31, dtype=torch.int64)
    with pytest.raises(UserError, match="the prompt has 31 tokens"):
        stream(recurrent, 1, seed=0, prompt=prompt)
    tokens = torch.cat([*stream(recurrent, 1, seed=0, prompt=prompt, max_tokens=4)])
    assert torch.equal(tokens, by_definition(recurrent, prompt, 0, 0, 4)[31:])


class Fixed(Pace):
    """A pace of its own."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def took(self, steps: int, seconds: float) -> None:
        pass


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_how_many_steps_are_taken_at_once_does_not_show(
    recurrent: RecurrentModel, engine: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(recurrent)
    drawn = generate(recurrent, 5, seed=0, engine=engine)
    completed = complete(recurrent, prompts, seed=0, max_tokens=20, stop={3}, engine=engine)
    monkeypatch.setattr(generation_module, "Pace", lambda: Fixed(steps))
    assert torch.equal(generate(recurrent, 5, seed=0, engine=engine), drawn)
    again = complete(recurrent, prompts, seed=0, max_tokens=20, stop={3}, engine=engine)
    assert all(torch.equal(a, b) for a, b in zip(again, completed, strict=True))


@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_no_step_is_taken_that_nobody_asked_for(
    recurrent: RecurrentModel, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_module, "Pace", lambda: Fixed(steps))
    engine = Recording(recurrent)
    generate(recurrent, 5, seed=0, engine=engine)
    assert sum(steps for _, steps in engine.asked) == 30
    list(stream(recurrent, 5, seed=0, engine=engine, max_tokens=13))
    complete(recurrent, prompts_of(recurrent), seed=0, max_tokens=17, engine=engine)
    assert sum(steps for _, steps in engine.asked) == 30 + 13 + 17


def test_chunks_grow_until_they_last_long_enough_and_shrink_again() -> None:
    pace, sizes = Pace(), []
    for seconds_per_step in [1e-5] * 9 + [1e-3] * 3 + [1.0] * 2:
        sizes.append(pace.steps)
        pace.took(pace.steps, pace.steps * seconds_per_step)
    assert sizes[:4] == [1, 4, 16, 64]
    assert sizes[9] == pytest.approx(SECONDS / 1e-5, rel=0.01)
    assert sizes[10:12] == [pytest.approx(SECONDS / 1e-3, abs=1)] * 2
    assert sizes[-1] == 1


def test_a_stream_leaves_nothing_behind() -> None:
    """Whatever is kept for each step is at least one block of Python's memory."""
    tokens = stream(convert(noisy_model("s4d", d_model=4)), 1, seed=0, max_tokens=ENDLESS)
    blocks = []
    for _ in range(2):
        next(itertools.islice(tokens, 300, None))
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 150


def test_a_chunk_of_any_length_is_handed_out_by_a_few_tensors_at_a_time() -> None:
    """A fast machine draws thousands of tokens in a chunk, and a tensor for each of them would take megabytes."""
    generation = Generation.start(convert(noisy_model("s4d", d_model=4)), 1, seed=0)
    generation._ready = torch.arange(5000)[None] % 11
    tokens = generation.stream(5000)
    gc.collect()
    before = sys.getallocatedblocks()
    first = next(tokens)
    assert sys.getallocatedblocks() - before < 900
    assert [int(first), *map(int, tokens)] == [i % 11 for i in range(5000)]


@pytest.mark.slow
def test_a_long_stream_keeps_its_memory() -> None:
    """Blocks that grow would show here: numbers made ahead and chunks come and go, and take some kB."""
    tokens = stream(convert(noisy_model("s4d", d_model=4)), 1, seed=0, max_tokens=ENDLESS)
    tracemalloc.start()
    try:
        next(itertools.islice(tokens, 1000, None))
        before = tracemalloc.get_traced_memory()[0]
        next(itertools.islice(tokens, 3000, None))  # a block each would be 48,000 bytes
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 40_000


@pytest.mark.slow
def test_a_million_steps_need_the_memory_of_a_few_thousand() -> None:
    recurrent = convert(noisy_model("s4d"))
    engine = make_engine("auto", recurrent)
    if engine.name != "native":
        pytest.skip("a million steps take too long without the native engine")
    tokens = stream(recurrent, 1, seed=0, engine=engine, max_tokens=ENDLESS)
    next(itertools.islice(tokens, 50_000, None))
    before = process_peak_mb()
    next(itertools.islice(tokens, 1_000_000, None))
    assert process_peak_mb() < before + 4


def test_what_is_handed_out_is_the_reader_s(recurrent: RecurrentModel) -> None:
    seen = []
    for token in stream(recurrent, 3, seed=0):
        seen.append(token.clone())
        token.zero_()
    assert torch.equal(torch.stack(seen, dim=1), generate(recurrent, 3, seed=0))


# Interruptions


class Bar:
    """A progress bar at which somebody presses Ctrl-C."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, n: int) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_at_the_bar_leaves_nothing_broken(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    whole = generate(recurrent, 5, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "progress_bar", lambda *args, **options: Bar())
        with pytest.raises(KeyboardInterrupt):
            generate(recurrent, 5, seed=0, progress=True)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert torch.equal(generate(recurrent, 5, seed=0), whole)


class Pressed(Filters):
    """Filters during whose n-th call Ctrl-C is pressed."""

    def __call__(self, logits: Tensor) -> Tensor:
        count = self.__dict__.setdefault("count", [0])
        count[0] += 1
        if count[0] == self.__dict__["press"]:
            os.kill(os.getpid(), signal.SIGINT)
        return logits


@pytest.mark.parametrize("press", [1, 2, 9, 13, 30])
def test_no_token_is_lost_by_an_interrupt(
    recurrent: RecurrentModel, press: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever Ctrl-C falls, the generation goes on, or is saved and goes on, as if nothing had been."""
    monkeypatch.setattr(generation_module, "Pace", lambda: Fixed(8))
    whole = generate(recurrent, 3, seed=0)
    filters = Pressed()
    filters.__dict__["press"] = press  # no setting: what is saved, and goes on without Ctrl-C, keeps all
    engine = EagerEngine(recurrent, filters)
    generation = Generation.start(recurrent, 3, seed=0, engine=engine)
    handler = signal.getsignal(signal.SIGINT)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for token in generation.stream(30):
            seen.append(token)
    assert signal.getsignal(signal.SIGINT) is handler
    generation.save(tmp_path / "saved.safetensors")
    loaded = Generation.load(tmp_path / "saved.safetensors", recurrent)
    for continued in (generation, loaded):
        rest = [*continued.stream(30 - len(seen))]
        assert torch.equal(torch.stack([*seen, *rest], dim=1), whole)


def test_a_first_step_that_is_taken_and_then_interrupted_is_taken_again(recurrent: RecurrentModel) -> None:
    """As in an engine outside of Python: Ctrl-C is noticed when the state has already moved on."""

    class Late(EagerSession):
        presses = 1

        def advance(self, token: Tensor, u: Tensor) -> Tensor:
            drawn = super().advance(token, u)
            Late.presses -= 1
            if not Late.presses:
                raise KeyboardInterrupt
            return drawn

    engine = EagerEngine(recurrent, KEEP_ALL)
    engine.begin = lambda state: Late(engine._step, state)  # type: ignore[method-assign]
    generation = Generation.start(recurrent, 3, seed=0, engine=engine)
    with pytest.raises(KeyboardInterrupt):
        next(generation.stream())
    assert torch.equal(torch.stack([*generation.stream(30)], dim=1), generate(recurrent, 3, seed=0))


# Suspension


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("mixer", SSM_MIXERS)
@pytest.mark.parametrize("taken", [0, 1, 11])
def test_a_suspended_generation_goes_on_bit_for_bit(engine: str, mixer: str, taken: int, tmp_path: Path) -> None:
    """In the middle of a chunk too: tokens drawn but not handed out are in the file."""
    check_suspension(engine, mixer, taken, tmp_path)


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("taken", [1, 11])
def test_a_suspended_image_goes_on_in_any_engine(kind: str, taken: int, tmp_path: Path) -> None:
    """In the middle of a pixel and of a row; no number is so near to an edge that two engines would round it apart."""
    path, recurrent = tmp_path / "generation.safetensors", convert(model_of(kind))
    prompt = random_sequences(recurrent.source, 5)[:, :4]
    whole = torch.stack([*Generation.start(recurrent, 5, seed=5, prompt=prompt).stream(40)], dim=1)
    for before, after in itertools.product(ENGINES_HERE, repeat=2):
        generation = Generation.start(recurrent, 5, seed=5, prompt=prompt, engine=before)
        seen = [*itertools.islice(generation.stream(), taken)]
        generation.keep([3, 0, 4])
        generation.save(path)
        rest = torch.stack([*Generation.load(path, convert(model_of(kind)), after).stream(40 - taken)], dim=1)
        assert torch.equal(torch.stack(seen, dim=1), whole[:, :taken])
        assert torch.equal(rest, whole[[3, 0, 4], taken:])


@pytest.mark.parametrize("kind", ["sashimi", "wavenet"])
def test_labels_and_all_levels_survive_suspension(kind: str, tmp_path: Path) -> None:
    path, recurrent = tmp_path / "generation.safetensors", convert(sounding_model(kind))
    settings: dict[str, Any] = {"seed": 3, "labels": torch.tensor([2, 0, 1])}
    whole = torch.stack([*Generation.start(recurrent, 3, **settings).stream(40)], dim=1)
    generation = Generation.start(recurrent, 3, **settings)
    seen = [*itertools.islice(generation.stream(), 11)]
    generation.keep([2, 0])
    generation.save(path)
    rest = torch.stack([*Generation.load(path, convert(sounding_model(kind))).stream(29)], dim=1)
    assert torch.equal(torch.stack(seen, dim=1), whole[:, :11])
    assert torch.equal(rest, whole[[2, 0], 11:])


@pytest.mark.parametrize("taken", [0, 11])
def test_a_cache_survives_suspension_too(taken: int, tmp_path: Path) -> None:
    check_suspension("eager", "attention", taken, tmp_path)


def check_suspension(engine: str, mixer: str, taken: int, tmp_path: Path) -> None:
    path = tmp_path / "generation.safetensors"
    recurrent = convert(noisy_model(mixer, d_model=16))
    prompt = random_sequences(recurrent.source, 5)[:, :4]
    settings: dict[str, Any] = {"seed": 2**64 - 1, "prompt": prompt, "filters": FILTERS, "engine": engine}
    whole = torch.stack([*Generation.start(recurrent, 5, **settings).stream(40)], dim=1)
    generation = Generation.start(recurrent, 5, **settings)
    seen = [*itertools.islice(generation.stream(), taken)]
    generation.save(path)
    del generation
    loaded = Generation.load(path, convert(noisy_model(mixer, d_model=16)), engine)
    assert torch.equal(torch.stack([*seen, *loaded.stream(40 - taken)], dim=1), whole)


def test_rows_kept_and_prompts_of_unequal_lengths_survive_suspension(recurrent: RecurrentModel, tmp_path: Path) -> None:
    path = tmp_path / "generation.safetensors"
    prompts = prompts_of(recurrent)
    completed = complete(recurrent, prompts, seed=8, max_tokens=20)
    start = read_prompts(recurrent, checked_prompts(recurrent, prompts))
    generation = Generation(recurrent, EagerEngine(recurrent, KEEP_ALL), seed=8, sequences=range(9), start=start)
    list(generation.chunks(6))
    generation.keep([3, 8, 1])
    generation.save(path)
    rest = torch.cat([*Generation.load(path, recurrent).chunks(14)], dim=1)
    assert all(torch.equal(rest[row], completed[i][-14:]) for row, i in enumerate([3, 8, 1]))


def test_saving_changes_nothing_and_replaces_the_file_as_a_whole(
    recurrent: RecurrentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "generation.safetensors"
    generation = Generation.start(recurrent, 3, seed=0)
    seen = []
    for token in itertools.islice(generation.stream(), 12):
        seen.append(token)
        generation.save(path)
    assert torch.equal(torch.stack([*seen, *generation.stream(18)], dim=1), generate(recurrent, 3, seed=0))
    kept = path.read_bytes()

    def full(*args: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk full while writing"):
        generation.save(path)
    assert path.read_bytes() == kept
    assert [file.name for file in tmp_path.iterdir()] == ["generation.safetensors"]


@pytest.fixture(scope="module")
def saved(recurrent: RecurrentModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "generation.safetensors"
    generation = Generation.start(recurrent, 2, seed=0, prompt=torch.tensor([1, 2, 3]))
    list(generation.chunks(5))
    generation.save(path)
    return path.read_bytes()


def refusal(path: Path, recurrent: RecurrentModel) -> str:
    with pytest.raises(UserError) as raised:
        Generation.load(path, recurrent)
    message = str(raised.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_a_truncated_file_is_refused(recurrent: RecurrentModel, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for length in (0, 1, 7, 8, 9, 100, len(saved) // 2, len(saved) - 1):
        path.write_bytes(saved[:length])
        assert "is damaged" in refusal(path, recurrent)


def test_a_file_with_one_changed_byte_is_refused(recurrent: RecurrentModel, saved: bytes, tmp_path: Path) -> None:
    """Wherever it is: in the names, the seed, the filters, the tokens or the state."""
    path = tmp_path / "changed.safetensors"
    for place in range(0, len(saved), 13):
        changed = bytearray(saved)
        changed[place] ^= 1
        path.write_bytes(changed)
        refusal(path, recurrent)


def test_what_is_not_a_suspended_generation_is_refused(
    recurrent: RecurrentModel, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no file"):
        Generation.load(tmp_path / "nowhere", recurrent)
    with pytest.raises(UserError, match="is a folder: expected a regular file"):
        Generation.load(tmp_path, recurrent)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, other)
    assert "is not a suspended generation" in refusal(other, recurrent)
    path = tmp_path / "newer.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(suspend, "FORMAT_VERSION", "2")
        Generation.start(recurrent, 2, seed=0).save(path)
    assert "has format version 2, this s4gen reads 1" in refusal(path, recurrent)


def test_a_file_whose_parts_do_not_fit_is_refused(
    recurrent: RecurrentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody wrote on purpose, digest and all."""
    path = tmp_path / "generation.safetensors"
    start = read_prompts(recurrent, checked_prompts(recurrent, prompts_of(recurrent, [4, 4])))
    good = suspend.Suspended(0, KEEP_ALL, [0, 1], start, torch.zeros(2, 3, dtype=torch.int64))
    bad_state = start.state._replace(blocks=tuple(block[..., 1:] for block in start.state.blocks))
    bad: list[tuple[suspend.Suspended, str]] = [
        (good._replace(sequences=[0]), "rows do not fit"),
        (good._replace(ready=good.ready[:1]), "rows do not fit"),
        (good._replace(start=start._replace(state=bad_state)), "part 1 of the state is not that of 2 rows"),
        (good._replace(start=start._replace(state=start.state._replace(blocks=()))), "part 1 of the state"),
    ]
    for suspended, sentence in bad:
        suspend.write(path, recurrent, suspended)
        assert sentence in refusal(path, recurrent)
    suspend.write(path, recurrent, good)
    assert len(Generation.load(path, recurrent)) == 2


@pytest.mark.parametrize("other", ["weights", "layout", "mixer"])
def test_a_generation_of_another_model_is_refused(
    recurrent: RecurrentModel, saved: bytes, tmp_path: Path, other: str
) -> None:
    models = {
        "weights": noisy_model("s4d", d_model=16, seed=1),
        "layout": noisy_model("s4d", ImageLayout(5, 6, 1, 11), d_model=16),
        "mixer": noisy_model("s4", d_model=16),
    }
    path = tmp_path / "generation.safetensors"
    path.write_bytes(saved)
    assert "was written with another model" in refusal(path, convert(models[other]))


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_seen_is_forked_kept_suspended_and_goes_on(
    recurrent: RecurrentModel, shared: bool, tmp_path: Path
) -> None:
    """With a large penalty no token comes twice, nor one of the prompt, as long as there are others."""
    vocab = recurrent.config.layout.vocab
    prompt = torch.tensor([3, 5]) if shared else torch.tensor([[3, 5], [0, 1], [7, 7]])
    settings: dict[str, Any] = {"seed": 1, "prompt": prompt, "filters": Filters(repetition_penalty=1e9)}
    whole = torch.stack([*Generation.start(recurrent, 3, **settings).stream(vocab - 2)], dim=1)
    for row, given in zip(whole.tolist(), prompt.expand(3, 2).tolist(), strict=True):
        count = vocab - len(set(given))
        assert not set(row[:count]) & set(given)
        assert len(set(row[:count])) == min(count, len(row))
    generation = Generation.start(recurrent, 3, **settings)
    begun = torch.stack([*generation.stream(4)], dim=1)
    generation.keep([2, 0])
    generation.save(tmp_path / "saved.safetensors")
    loaded = Generation.load(tmp_path / "saved.safetensors", recurrent)
    for continued in (generation, loaded):
        rest = torch.stack([*continued.stream(vocab - 6)], dim=1)
        assert torch.equal(torch.cat([begun[[2, 0]], rest], dim=1), whole[[2, 0]])


def test_a_file_without_a_penalty_says_nothing_of_it(recurrent: RecurrentModel, tmp_path: Path) -> None:
    """So what an older s4gen can draw, it can read."""
    Generation.start(recurrent, 2, seed=0, filters=Filters(top_k=3)).save(tmp_path / "saved")
    with safe_open(tmp_path / "saved", framework="pt") as file:
        assert json.loads(file.metadata()["filters"]) == {"top_k": 3}
