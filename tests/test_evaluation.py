"""Bits per dimension: the right unit, exact over the whole set, with an honest error bar."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.evaluation import evaluate


def by_first_token(x: Tensor) -> Tensor:
    """A score under which the sequence that begins with k costs k bits per dimension."""
    return -x[:, 0].float() * x.shape[1] * math.log(2)


def test_a_uniform_model_costs_log2_of_the_vocabulary() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.full((len(x),), -x.shape[1] * math.log(256))

    result = evaluate(score, torch.zeros(7, 11, dtype=torch.int64), 3, "conv")
    assert result.bits_per_dim == pytest.approx(8, rel=1e-6)
    assert result.stderr == pytest.approx(0, abs=1e-6)
    assert (result.n_sequences, result.length, result.mode) == (7, 11, "conv")
    assert result.seconds > 0


def test_mean_and_standard_error_are_over_sequences_however_they_are_batched() -> None:
    """Averaging the means of unequal batches would weight the sequences of the last, smaller one more."""
    bits = torch.tensor([1, 2, 3, 4, 10])
    sequences = bits[:, None].expand(5, 4)
    for batch_size in (1, 2, 3, 5, 64):
        result = evaluate(by_first_token, sequences, batch_size, "conv")
        assert result.bits_per_dim == pytest.approx(4.0, rel=1e-6)
        assert result.stderr == pytest.approx(math.sqrt(12.5 / 5), rel=1e-6)


def test_every_sequence_is_scored_once_in_order() -> None:
    seen: list[Tensor] = []

    def score(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(x)
        return by_first_token(x)

    sequences = torch.arange(10)[:, None].expand(10, 3)
    evaluate(score, sequences, 4, "conv")
    assert [len(batch) for batch in seen] == [4, 4, 2]
    assert torch.equal(torch.cat(seen), sequences)


def test_the_mean_is_accumulated_in_float64() -> None:
    """In float32 the sum of 200,000 values near 1 is off by more than 1e-4."""

    def score(x: Tensor) -> Tensor:
        return -(1 + x[:, 0].double() * 1e-9) * math.log(2)

    n = 200_000
    result = evaluate(score, torch.arange(n)[:, None], 50_000, "conv")
    assert result.bits_per_dim == pytest.approx(1 + 1e-9 * (n - 1) / 2, rel=1e-13)


def test_one_sequence_has_no_standard_error() -> None:
    result = evaluate(by_first_token, torch.ones(1, 3, dtype=torch.int64), 8, "recurrent")
    assert math.isnan(result.stderr)
    assert result.bits_per_dim == pytest.approx(1)


def test_nothing_to_score_and_batches_of_none_are_refused() -> None:
    with pytest.raises(UserError, match="no sequences"):
        evaluate(by_first_token, torch.zeros(0, 3, dtype=torch.int64), 8, "conv")
    with pytest.raises(UserError, match="batch size 0: expected at least 1"):
        evaluate(by_first_token, torch.zeros(2, 3, dtype=torch.int64), 0, "conv")


def test_progress_goes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(by_first_token, torch.ones(2, 3, dtype=torch.int64), 1, "conv", progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1.0000 bits/dim" in printed.err
