"""Sampling: the shipped loop draws from the model, and what it draws depends on the seed, not on the batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from tiny import noisy_model, random_sequences
from torch import Tensor

from s4gen.config import ImageLayout
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import generate, stream
from s4gen.sampling.randomness import draw, uniforms

SSM_MIXERS = ["s4d", "s4", "h3"]
MIXERS = [*SSM_MIXERS, "attention"]


@pytest.fixture
def recurrent() -> RecurrentModel:
    return convert(noisy_model("s4d"))


def by_definition(recurrent: RecurrentModel, n: int, seed: int, prompt: Tensor) -> Tensor:
    """Every token fed through `step`, prompt included; the tokens after the prompt drawn from the logits."""
    length, given = recurrent.config.layout.length, prompt.shape[1]
    u = uniforms(seed, range(n), length)
    state, token, out = recurrent.initial_state(n), torch.full((n,), recurrent.bos), torch.empty(n, length).long()
    for t in range(length):
        logits, state = recurrent.step(token, state)
        token = prompt[:, t] if t < given else draw(logits, u[:, t])
        out[:, t] = token
    return out


class Recorder(Filters):
    """Filters that keep all, and remember the logits that the sampling loop showed them."""

    def __call__(self, logits: Tensor) -> Tensor:
        self.__dict__.setdefault("seen", []).append(logits)
        return logits


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("layout", [ImageLayout(6, 5, 1, 11), ImageLayout(3, 3, 3, 4)], ids=["grey", "colour"])
@pytest.mark.parametrize("given", [0, 1, 13])
def test_the_sampling_loop_has_the_log_probabilities_of_the_parallel_pass(
    mixer: str, layout: ImageLayout, given: int
) -> None:
    """The logits that the shipped loop draws from, at the tokens it drew, against one parallel pass over them."""
    model = noisy_model(mixer, layout).eval()
    prompt = random_sequences(model, 5)[:, :given]
    recorder = Recorder()
    drawn = torch.stack([*stream(convert(model), 5, seed=3, filters=recorder, prompt=prompt)], dim=1)
    logits = torch.stack(recorder.__dict__["seen"], dim=1)[:5]  # the rows after the fifth are padding
    looped = -logits.log_softmax(dim=-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        parallel = model.nats(torch.cat([prompt, drawn], dim=1))[:, given:]
    torch.testing.assert_close(looped, parallel, rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_sequences_and_another_gives_others(recurrent: RecurrentModel) -> None:
    first = generate(recurrent, 4, seed=0)
    assert torch.equal(first, generate(recurrent, 4, seed=0))
    assert (first != generate(recurrent, 4, seed=1)).any(dim=1).all()
    assert len(first.unique(dim=0)) == 4


@pytest.mark.parametrize("mixer", SSM_MIXERS)
@pytest.mark.parametrize("given", [0, 13])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 12])
def test_batches_do_not_show(mixer: str, given: int, batch_size: int) -> None:
    model = noisy_model(mixer, d_model=16)
    recurrent, prompt = convert(model), random_sequences(model, 13)[:, :given]
    together = generate(recurrent, 13, seed=7, prompt=prompt, batch_size=13)
    assert torch.equal(generate(recurrent, 13, seed=7, prompt=prompt, batch_size=batch_size), together)


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_batches_do_not_show_in_the_last_bit_of_the_logits(mixer: str) -> None:
    """Equal tokens could be luck; equal logits are the reason. Here at the width of a real model."""
    recurrent = convert(noisy_model(mixer, d_model=128))
    logits = {}
    for n in (1, 4, 5, 13, 33):
        recorder = Recorder()
        list(stream(recurrent, n, seed=7, filters=recorder))
        logits[n] = torch.stack(recorder.__dict__["seen"])[:, 0]
    assert all(torch.equal(rows, logits[33]) for rows in logits.values())


def test_a_sequence_does_not_depend_on_how_many_others_are_drawn(recurrent: RecurrentModel) -> None:
    assert torch.equal(generate(recurrent, 1, seed=7), generate(recurrent, 9, seed=7)[:1])


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("given", [0, 1, 14, 29, 30])
def test_prompts_are_kept_and_continued_as_if_stepped_through(mixer: str, given: int) -> None:
    model = noisy_model(mixer)
    recurrent, prompt = convert(model), random_sequences(model, 4)[:, :given]
    completed = generate(recurrent, 4, seed=2, prompt=prompt)
    assert torch.equal(completed[:, :given], prompt)
    assert torch.equal(completed, by_definition(recurrent, 4, 2, prompt))


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_a_sequence_prompted_with_its_own_beginning_comes_out_again(mixer: str) -> None:
    """Number t of a stream is spent on position t, whether or not the positions before were drawn."""
    recurrent = convert(noisy_model(mixer))
    drawn = generate(recurrent, 4, seed=2)
    assert torch.equal(generate(recurrent, 4, seed=2, prompt=drawn[:, :11]), drawn)


def test_a_prompt_is_read_by_convolution_never_token_by_token(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = recurrent.stepper.step

    def counted(token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        steps.append(token)
        return step(token, state)

    monkeypatch.setattr(recurrent.stepper, "step", counted)
    generate(recurrent, 4, seed=0, prompt=random_sequences(recurrent.source, 4)[:, :20])
    assert len(steps) == 11  # one looks whether the model gives numbers, then ten draw the other ten


def test_a_whole_sequence_as_prompt_needs_no_model_at_all(
    recurrent: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent.source, "prefill", None)
    x = random_sequences(recurrent.source, 3)
    assert torch.equal(generate(recurrent, 3, seed=0, prompt=x), x)


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_frequencies_are_the_model_s_probabilities(mixer: str) -> None:
    """4,000 images of two pixels with four levels; chi-square over the 16 possible ones.

    Seeded; over seeds the chance of a false alarm is 1e-6.
    """
    from scipy.stats import chi2  # a second, for the one process that runs this test

    model = noisy_model(mixer, ImageLayout(height=1, width=2, channels=1, levels=4)).eval()
    with torch.no_grad():
        model.head.weight.mul_(0.4)  # flatter: the chi-square approximation needs 5 expected images of every kind
    all_images = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    with torch.no_grad():
        probabilities = model.log_prob(all_images).double().exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    expected = 4000 * probabilities
    assert float(expected.min()) > 5
    drawn = generate(convert(model), 4000, seed=11, batch_size=1000)
    counts = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(1e-6, df=15)


def test_filters_reach_the_draw(recurrent: RecurrentModel) -> None:
    greedy = generate(recurrent, 3, seed=0, filters=Filters(top_k=1))
    for settings in ({"temperature": 0.0}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert torch.equal(generate(recurrent, 3, seed=5, filters=Filters(**settings)), greedy)  # type: ignore[arg-type]
    assert len(greedy.unique(dim=0)) == 1
    logits, state = recurrent.step(torch.tensor([recurrent.bos]), recurrent.initial_state(1))
    for token in greedy[0]:
        assert int(logits.argmax()) == int(token)
        logits, state = recurrent.step(token[None], state)


def test_the_stream_yields_what_generate_collects(recurrent: RecurrentModel) -> None:
    prompt = random_sequences(recurrent.source, 5)[:, :7]
    tokens = stream(recurrent, 5, seed=4, filters=Filters(temperature=0.8), prompt=prompt)
    assert isinstance(tokens, Iterator)
    together = generate(recurrent, 5, seed=4, filters=Filters(temperature=0.8), prompt=prompt)
    assert torch.equal(torch.stack([*tokens], dim=1), together[:, 7:])


def test_sampling_leaves_no_trace() -> None:
    """The global random state stays, gradients stay on between two tokens, and what is drawn can be trained on."""
    model = noisy_model("s4")
    recurrent, before = convert(model), torch.get_rng_state()
    next(stream(recurrent, 2, seed=0))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    drawn = generate(recurrent, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    model.nats(drawn).mean().backward()


def test_the_bar_counts_every_token_on_standard_error(
    recurrent: RecurrentModel, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(recurrent, 5, seed=0, batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sampling: 100%" in captured.err and "150/150" in captured.err


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (torch.zeros(3, 31, dtype=torch.int64), "the prompt has 31 tokens, the model's sequences have 30"),
        (
            torch.zeros(2, 5, dtype=torch.int64),
            r"the prompt has shape \(2, 5\); expected \(3, P\), .* or \(P,\), one for all",
        ),
        (torch.zeros(3, 5, 1, dtype=torch.int64), r"the prompt has shape \(3, 5, 1\)"),
        (torch.tensor(3), r"the prompt has shape \(\)"),
        (torch.full((3, 5), 11), "the prompt has tokens from 11 to 11; the model knows 0 to 10"),
        (torch.full((3, 5), -1), "the prompt has tokens from -1 to -1"),
        (torch.zeros(3, 5), "the prompt has type torch.float32; expected integer tokens"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(recurrent: RecurrentModel, prompt: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        generate(recurrent, 3, seed=0, prompt=prompt)
    with pytest.raises(UserError, match=sentence):
        stream(recurrent, 3, seed=0, prompt=prompt)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "asked for 0 sequences"),
        ({"batch_size": 0}, "in batches of 0"),
        ({"engine": "steam"}, "there is no engine 'steam'; the engines are auto, eager, compiled"),
        ({"filters": {"temperature": -1.0}}, "temperature is -1.0"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(
    recurrent: RecurrentModel, arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        if "filters" in arguments:
            arguments = {"filters": Filters(**arguments["filters"])}  # type: ignore[arg-type]
        generate(recurrent, **{"n": 1, "seed": 0, **arguments})  # type: ignore[arg-type]


def test_an_engine_draws_with_its_own_filters_and_with_no_others(recurrent: RecurrentModel) -> None:
    engine = EagerEngine(recurrent, Filters(top_k=1))
    greedy = generate(recurrent, 3, seed=0, filters=Filters(top_k=1))
    for filters in (None, Filters(top_k=1)):
        assert torch.equal(generate(recurrent, 3, seed=5, filters=filters, engine=engine), greedy)
    with pytest.raises(UserError, match=r"the engine was made with Filters.*top_k=1.*not with Filters.*top_k=0"):
        generate(recurrent, 3, seed=5, filters=Filters(), engine=engine)


def test_a_diverged_model_is_refused_rather_than_drawn_from() -> None:
    model = noisy_model("s4d")
    with torch.no_grad():
        model.head.weight[3, 0] = math.nan
    with pytest.raises(UserError, match="not a finite number"):
        generate(convert(model), 1, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_batches_do_not_show_in_the_compiled_engine(mixer: str) -> None:
    recurrent = convert(noisy_model(mixer, d_model=16))
    filters = Filters(temperature=0.9, top_k=9, top_p=0.95, min_p=0.01)
    settings = {"seed": 7, "engine": "compiled", "filters": filters}
    together = generate(recurrent, 13, batch_size=13, **settings)  # type: ignore[arg-type]
    assert torch.equal(generate(recurrent, 13, batch_size=5, **settings), together)  # type: ignore[arg-type]
