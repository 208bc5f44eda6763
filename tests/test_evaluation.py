"""Bits per dimension: the right unit, exact over the whole set, with an honest error bar."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from engines import KINDS, model_of, nats_by_engine
from tiny import noisy_model, random_sequences
from torch import Tensor

from s4gen.bench.loss import Loss, loss_of
from s4gen.cli import main
from s4gen.errors import UserError
from s4gen.evaluate.images import evaluate_images
from s4gen.evaluate.scorers import by_convolution, by_recurrence, fed
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import Engine, make_engine

BOS = 77


def by_first_token(
    tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None
) -> tuple[Tensor, None]:
    """A score under which the sequence that begins with k costs k bits per dimension."""
    return (target[:, :1].float() * math.log(2)).expand(target.shape), None


def test_a_uniform_model_costs_log2_of_the_vocabulary() -> None:
    def score(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, None]:
        return torch.full(target.shape, math.log(256)), None

    result = evaluate_images(score, torch.zeros(7, 11, dtype=torch.int64), BOS, 3, "conv")
    assert result.bits_per_dim == pytest.approx(8, rel=1e-6)
    assert result.stderr == pytest.approx(0, abs=1e-6)
    assert (result.n_sequences, result.length, result.mode) == (7, 11, "conv")
    assert result.seconds > 0


def test_mean_and_standard_error_are_over_sequences_however_they_are_batched() -> None:
    """Averaging the means of unequal batches would weight the sequences of the last, smaller one more."""
    bits = torch.tensor([1, 2, 3, 4, 10])
    sequences = bits[:, None].expand(5, 4)
    for batch_size in (1, 2, 3, 5, 64):
        result = evaluate_images(by_first_token, sequences, BOS, batch_size, "conv")
        assert result.bits_per_dim == pytest.approx(4.0, rel=1e-6)
        assert result.stderr == pytest.approx(math.sqrt(12.5 / 5), rel=1e-6)


def test_every_sequence_is_scored_once_in_order_behind_bos_with_its_label() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def score(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, None]:
        assert not torch.is_grad_enabled()
        assert state is None
        seen.append((tokens, target, label))
        return by_first_token(tokens, target)

    sequences, labels = torch.arange(30).view(10, 3), torch.arange(10) % 4
    evaluate_images(score, sequences, BOS, 4, "conv", labels=labels)
    assert [len(target) for _, target, _ in seen] == [4, 4, 2]
    tokens, target, label = (torch.cat(column) for column in zip(*seen, strict=True))  # type: ignore[arg-type]
    assert torch.equal(target, sequences) and torch.equal(label, labels)
    assert tokens[:, 0].eq(BOS).all() and torch.equal(tokens[:, 1:], sequences[:, :-1])


def test_the_mean_is_accumulated_in_float64() -> None:
    """In float32 the sum of 200,000 values near 1 is off by more than 1e-4."""

    def score(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, None]:
        return (1 + target.double() * 1e-9) * math.log(2), None

    n = 200_000
    result = evaluate_images(score, torch.arange(n)[:, None], BOS, 50_000, "conv")
    assert result.bits_per_dim == pytest.approx(1 + 1e-9 * (n - 1) / 2, rel=1e-13)


def test_one_sequence_has_no_standard_error() -> None:
    result = evaluate_images(by_first_token, torch.ones(1, 3, dtype=torch.int64), BOS, 8, "recurrent")
    assert math.isnan(result.stderr)
    assert result.bits_per_dim == pytest.approx(1)


def test_nothing_to_score_and_batches_of_none_are_refused() -> None:
    with pytest.raises(UserError, match="no sequences"):
        evaluate_images(by_first_token, torch.zeros(0, 3, dtype=torch.int64), BOS, 8, "conv")
    with pytest.raises(UserError, match="batch size 0: expected at least 1"):
        evaluate_images(by_first_token, torch.zeros(2, 3, dtype=torch.int64), BOS, 0, "conv")


def test_progress_goes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_images(by_first_token, torch.ones(2, 3, dtype=torch.int64), BOS, 1, "conv", progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1.0000 bits/dim" in printed.err


# One signature for both views


@pytest.mark.parametrize("kind", KINDS)
def test_both_scorers_give_the_nats_of_the_model_whole_and_in_chunks_with_their_state(kind: str) -> None:
    model = model_of(kind).double().eval()
    recurrent, x = convert(model), random_sequences(model, 3)
    tokens, wanted = fed(x, model.bos), model.nats(x).detach()
    for score in (by_convolution(model), by_recurrence(recurrent, make_engine("eager", recurrent))):
        for size in (30, 6, 7):  # 6 ends with a pixel or a window, 7 inside of one
            state, parts = None, []
            for piece, target in zip(tokens.split(size, 1), x.split(size, 1), strict=True):
                nats, state = score(piece, target, state)
                parts.append(nats)
            found = torch.cat(parts, dim=1)
            assert (found >= 0).all()
            torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-8)


# By an engine, token by token


@pytest.mark.parametrize("name", ["eager", "native"])
@pytest.mark.parametrize("mixer", ["s4d", "s4"])
def test_an_engine_scores_as_the_convolution_does(mixer: str, name: str) -> None:
    model = noisy_model(mixer).eval()
    recurrent, x = convert(model), random_sequences(model, 3)
    nats = nats_by_engine(recurrent, make_engine(name, recurrent), x)
    assert nats.dtype == torch.float64
    torch.testing.assert_close(nats, model.nats(x).detach().double(), rtol=0, atol=1e-4)


def test_a_lossless_engine_loses_nothing() -> None:
    recurrent = convert(noisy_model("s4d"))
    loss = loss_of(recurrent, make_engine("eager", recurrent), n=4, length=20)
    assert abs(loss.bits_per_dim) < 1e-7 and loss.stderr < 1e-7
    assert loss.tokens == 80


def test_the_loss_is_the_divergence_of_what_the_engine_computes() -> None:
    """An engine twice as unsure of everything: its loss must be the mean Kullback-Leibler divergence in bits."""
    recurrent = convert(noisy_model("s4d"))
    loss = loss_of(recurrent, _Halved(recurrent), n=64, length=30)
    session = make_engine("eager", recurrent).begin(recurrent.initial_state(64))
    token, divergence = torch.full((64,), recurrent.bos), 0.0
    for _ in range(30):
        logits = session.feed(token).double()
        p, q = logits.log_softmax(-1), (logits / 2).log_softmax(-1)
        divergence += (p.exp() * (p - q)).sum(-1).mean().item() / 30 / math.log(2)
        token = p.exp().multinomial(1)[:, 0]
    assert loss.bits_per_dim > 10 * loss.stderr > 0
    assert loss.bits_per_dim == pytest.approx(divergence, rel=0.1)
    assert str(Loss(0.00123, 0.0002, 4096)) == "loses 0.0012 ± 0.0002 bits/dim (4,096 of the model's own tokens)"


class _Halved:
    """An engine whose logits are half of the right ones."""

    def __init__(self, recurrent: RecurrentModel) -> None:
        self._engine: Engine = make_engine("eager", recurrent)

    def begin(self, state: object) -> _Halved:
        self._session = self._engine.begin(state)  # type: ignore[arg-type]
        return self

    def feed(self, token: Tensor) -> Tensor:
        return self._session.feed(token) / 2


def test_int8_weights_lose_more_than_bf16_ones_and_both_a_little() -> None:
    recurrent = convert(noisy_model("s4d", d_model=32))
    bf16, int8 = (loss_of(recurrent, make_engine(f"native-{weights}", recurrent)) for weights in ("bf16", "int8"))
    if make_engine("native", recurrent).name != "native":
        pytest.skip("there is no native engine here")
    assert 1e-9 < bf16.bits_per_dim < int8.bits_per_dim < 0.1


def test_an_engine_with_the_convolution_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", "nowhere", "--engine", "native"]) == 2
    assert capsys.readouterr().err == (
        "s4gen: error: --engine native is for --mode recurrent: the convolution runs in no engine; add that mode\n"
    )
