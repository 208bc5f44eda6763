"""Density models of text: the contracts of every density model, and what a large vocabulary must not cost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from s4gen.config import DensityConfig, ModelConfig, SSMConfig, TextLayout, load_preset
from s4gen.models import tokens as token_models
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.convert import convert
from s4gen.ssm import hippo

VOCAB, START = 50, 3
KINDS = {
    "s4": ModelConfig(mixer="s4"),
    "s4d, one part": ModelConfig(mixer="s4d"),
    "s4d in pairs": ModelConfig(mixer="s4d", mixers_per_block=2, cutoffs=(7,)),
    "attention": ModelConfig(mixer="attention", window=5, n_heads=2, cutoffs=(7, 20)),
}


def model(kind: str, vocab: int = VOCAB) -> DensityModel:
    """In float64, with noise everywhere."""
    shape = KINDS[kind]
    cutoffs = tuple(cut for cut in shape.cutoffs if cut < vocab)
    config = replace(shape, d_model=16, n_layers=2, d_ff=8, cutoffs=cutoffs)
    layout = TextLayout(vocab, min(START, vocab - 1))
    made = build_model(DensityConfig(layout, config, SSMConfig(d_state=4))).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_at_once_in_chunks_and_in_steps_it_is_the_same(kind: str) -> None:
    network, x = model(kind), tokens(3, 40)
    wanted = network.nats(x)
    fed = torch.cat((torch.full((3, 1), START), x), 1)
    first, state = network.score(fed[:, :13], x[:, :13])
    second, _ = network.score(fed[:, 13:40], x[:, 13:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), wanted, rtol=1e-9, atol=1e-9)
    state = network.initial_state(3)
    for t in range(40):
        logits, state = network.step(fed[:, t], state)
        found = -logits.gather(1, x[:, t : t + 1])[:, 0]
        torch.testing.assert_close(found, wanted[:, t], rtol=1e-9, atol=1e-9)
    logits, state = network.prefill(x[:, :20])
    more, _ = network.prefill(x[:, 20:30], state)
    torch.testing.assert_close(-more.gather(1, x[:, 30:31])[:, 0], wanted[:, 30], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.log_prob(x), -wanted.sum(1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_a_step_gives_are_probabilities_of_the_whole_vocabulary(kind: str) -> None:
    network = model(kind)
    logits, _ = network.prefill(tokens(5, 12))
    assert logits.shape == (5, VOCAB)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_probabilities_of_all_texts_sum_to_one(kind: str) -> None:
    network = model(kind, vocab=3)
    every = torch.tensor(list(itertools.product(range(3), repeat=5)))
    log_prob = network.log_prob(every)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_no_output_sees_a_later_token(kind: str) -> None:
    network = model(kind)
    x = tokens(4, 60)
    network.nats(x).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    other = x.clone()
    other[:, 30:] = tokens(4, 30)
    with torch.no_grad():
        a, b = network.nats(x), network.nats(other)
    assert torch.equal(a[:, :30], b[:, :30]) and not torch.equal(a[:, 31:], b[:, 31:])


class _Largest(TorchDispatchMode):
    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return result


def test_scores_need_neither_the_whole_vocabulary_nor_all_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 tokens, 4,000 types: the full table of logits would be 1.6 million numbers."""
    config = ModelConfig(mixer="s4d", d_model=16, n_layers=1, d_ff=0, cutoffs=(100, 1000))
    network = build_model(DensityConfig(TextLayout(4000, 0), config, SSMConfig(d_state=4)))
    x = torch.randint(4000, (1, 400))
    wanted = network.nats(x)
    monkeypatch.setattr(token_models, "LOGITS_AT_A_TIME", 3000)
    with torch.no_grad(), _Largest() as largest:
        found = network.nats(x)
    assert largest.size < 200_000
    torch.testing.assert_close(found, wanted)


def test_the_feed_forward_comes_after_the_last_mixer_of_each_layer() -> None:
    network = model("s4d in pairs")
    assert [block.feed_forward is not None for block in network._blocks()] == [False, True, False, True]


@torch.no_grad()
def test_conversion_keeps_what_the_embedding_and_the_head_share() -> None:
    recurrent = convert(model("s4d in pairs"))
    x = tokens(2, 30)
    torch.testing.assert_close(recurrent.nats_recurrent(x), recurrent.source.nats(x), rtol=1e-9, atol=1e-9)
    assert recurrent.stepper.embedding.tables[0] is recurrent.source.embedding.tables[0]
    assert recurrent.stepper.head._tied[0] is recurrent.stepper.embedding


def test_the_preset_of_wikitext_103_has_the_papers_form_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """249 M parameters, counted without a byte of memory for them."""
    shape, ssm, layout = load_preset("s4-wt103")
    assert layout == TextLayout(267_735, 0)
    assert (shape.n_layers, shape.mixers_per_block, shape.d_model, shape.d_ff) == (16, 2, 1024, 4096)
    matrices = tuple(x.to("meta") for x in hippo.nplr(ssm.init, ssm.d_state))
    monkeypatch.setattr(hippo, "nplr", lambda *_: matrices)
    with torch.device("meta"):
        network = build_model(DensityConfig(layout, shape, ssm))
    assert sum(parameter.numel() for parameter in network.parameters()) == 249_661_306
    assert [block.feed_forward is not None for block in network._blocks()] == [False, True] * 16
