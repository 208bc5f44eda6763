"""A model of sound begins with neighbouring codes as neighbours, in its embedding and in its head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from s4gen.config import AudioLayout, DensityConfig, ModelConfig, SSMConfig
from s4gen.data.audio import Quantiser
from s4gen.models.build import build_model
from s4gen.models.embedding import smooth_codes, smooth_head


def neighbours(x: Tensor) -> float:
    """Mean squared step from one row to the next, of twice the variance: 1 for unrelated rows."""
    return ((x[1:] - x[:-1]).square().mean() / (2 * x.var(dim=0, unbiased=False).mean())).item()


@pytest.mark.parametrize(("levels", "d_model"), [(256, 48), (256, 2), (4, 16), (65536, 64)])
def test_columns_are_curves_of_bounded_size(levels: int, d_model: int) -> None:
    rows = smooth_codes(levels, d_model)
    assert rows.shape == (levels, d_model)
    rms = rows.square().mean(0).sqrt()
    assert rms.isfinite().all() and rms.min() > 0 and rms.max() <= 0.5 + 1e-5
    assert smooth_head(levels, d_model).isfinite().all()
    if levels >= 256:
        assert neighbours(rows) < 0.02


@pytest.mark.parametrize("law", ["linear", "mu-law"])
def test_the_signal_is_a_linear_function_of_the_embedding(law: str) -> None:
    signal = torch.from_numpy(Quantiser(law, 8).decode(np.arange(256))).double()
    rows = torch.cat((smooth_codes(256, 48).double(), torch.ones(256, 1, dtype=torch.float64)), dim=1)
    residual = signal - rows @ torch.linalg.lstsq(rows, signal[:, None]).solution[:, 0]
    assert residual.square().mean() < 1e-4 * signal.var()


def test_a_fresh_head_gives_smooth_logits() -> None:
    torch.manual_seed(0)
    logits = smooth_head(256, 48) @ torch.randn(48, 500)
    assert neighbours(logits) < 0.02
    assert logits.square().mean().sqrt() == pytest.approx(0.3, rel=0.1)


def test_a_fresh_model_has_both_and_knows_nothing() -> None:
    torch.manual_seed(0)
    config = DensityConfig(
        AudioLayout(8000), ModelConfig("s4d", d_model=16, n_layers=1, pool=(4,)), SSMConfig(d_state=4)
    )
    model = build_model(config)
    levels = model.bos
    assert torch.equal(model.embedding.value.weight[:levels], smooth_codes(levels, model.config.model.d_model))
    bits = model.nats(torch.randint(levels, (4, 50))).mean() / math.log(2)
    assert abs(bits - math.log2(levels)) < 0.3


@pytest.mark.parametrize("pool", [(), (2, 3)])
def test_a_model_that_reads_recent_samples_gives_the_same_at_once_in_chunks_and_in_steps(pool: tuple[int, ...]) -> None:
    """Also for rows of unequal length; and a sample is read by the seven places after it."""
    torch.manual_seed(0)
    layout = AudioLayout(1000, bits=5, classes=("a", "b"))
    config = DensityConfig(layout, ModelConfig(d_model=8, n_layers=1, recent=7, pool=pool), SSMConfig(d_state=4))
    model = build_model(config).double().eval()
    x, label = torch.randint(32, (2, 40)), torch.tensor([1, 0])
    fed = torch.cat((torch.full_like(x[:, :1], model.bos), x), dim=1)
    with torch.no_grad():
        state = model.initial_state(2, label)
        whole, after = model(fed, state)
        parts, chunk_state = [], state
        for first, last in ((0, 1), (1, 4), (4, 30), (30, 41)):
            part, chunk_state = model(fed[:, first:last], chunk_state)
            parts.append(part)
        stepped = []
        for t in range(41):
            logits, state = model.step(fed[:, t], state)
            stepped.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.stack(stepped, 1), whole, rtol=1e-9, atol=1e-9)
        assert torch.equal(after.recent, fed[:, -6:]) and torch.equal(after.recent, state.recent)
        lengths = torch.tensor([3, 20])
        logits, prompt_state = model.prefill(x, lengths=lengths, label=label)
        for row, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(logits[row], whole[row, n], rtol=1e-9, atol=1e-9)
        assert torch.equal(
            prompt_state.recent[0],
            fed[0][torch.tensor([0, 0, 0, 1, 2, 3])].where(
                torch.tensor([False, False, False, True, True, True]), torch.tensor(model.bos)
            ),
        )
        changed = x.clone()
        changed[:, 10] = (changed[:, 10] + 9) % 32
        embedded = model.embed(fed, torch.zeros_like(fed), label, model.initial_state(2).recent)
        other = model.embed(
            torch.cat((fed[:, :1], changed), 1), torch.zeros_like(fed), label, model.initial_state(2).recent
        )
        differs = (embedded != other).any(-1).any(0)
        assert differs.nonzero()[:, 0].tolist() == list(range(11, 18))
