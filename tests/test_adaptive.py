"""Adaptive embedding and softmax: one distribution, computed where it is needed, with tables shared."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import reference_numbers
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from s4gen.config import SSMConfig
from s4gen.errors import UserError
from s4gen.models.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4gen.models.blocks import GatedOutput
from s4gen.models.ssm_layers import S4
from s4gen.ssm import dplr
from s4gen.ssm.realform import row, row_to_complex

FIXTURES = reference_numbers.BESIDE
SHAPES = [(), (7,), (5, 20, 33)]
"""Cutoffs: plain, a single cluster, the three of WikiText-103."""


class Model(nn.Module):
    def __init__(self, vocab: int, d_model: int, cutoffs: tuple[int, ...], dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = AdaptiveEmbedding(vocab, d_model, cutoffs, dropout=dropout)
        self.head = AdaptiveSoftmax(self.embedding, dropout)


def model(cutoffs: tuple[int, ...], vocab: int = 50, d_model: int = 64) -> Model:
    """In float64, with noise in place of zeros."""
    made = Model(vocab, d_model, cutoffs).double()
    for parameter in made.head.parameters():
        parameter.data += torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("cutoffs", SHAPES)
def test_the_probabilities_of_the_whole_vocabulary_sum_to_one(cutoffs: tuple[int, ...]) -> None:
    log_probs = model(cutoffs).head.log_probs(torch.randn(3, 4, 64, dtype=torch.float64))
    assert log_probs.shape == (3, 4, 50)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 4, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("cutoffs", SHAPES)
def test_nats_are_those_of_the_whole_vocabulary_and_so_are_their_gradients(cutoffs: tuple[int, ...]) -> None:
    made = model(cutoffs)
    hidden = torch.randn(2, 50, 64, dtype=torch.float64, requires_grad=True)
    target = torch.stack([torch.arange(50), torch.randint(50, (50,))])
    found = made.head.nats(hidden, target)
    wanted = -made.head.log_probs(hidden).gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert made.head.nats(hidden[0, 0], target[0, 0]).shape == ()
    inputs = [hidden, *made.parameters()]
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs, allow_unused=True) for x in (found, wanted)]
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_clusters_divide_the_vocabulary_as_the_paper_says() -> None:
    """p(token) = p(cluster | head) p(token | cluster), by dense matrices."""
    made, h = model((5, 20)), torch.randn(64, dtype=torch.float64)
    tables, projections, head = made.embedding.tables, made.embedding.projections, made.head
    logits = torch.cat([tables[0], head.cluster_weight]) @ (head.projection.T @ h)
    first = (logits + torch.cat([head.bias[:5], head.cluster_bias])).softmax(0)
    second = (tables[1] @ (projections[1].T @ h) + head.bias[5:20]).softmax(0)
    third = (tables[2] @ (projections[2].T @ h) + head.bias[20:]).softmax(0)
    wanted = torch.cat([first[:5], first[5] * second, first[6] * third])
    torch.testing.assert_close(head.log_probs(h).exp(), wanted, rtol=1e-12, atol=0)


def test_vectors_are_scaled_projections_of_the_tables() -> None:
    made = model((5, 20)).embedding
    found = made(torch.tensor([[0, 4, 5], [19, 20, 49]]))
    rows = [(0, 0), (0, 4), (1, 0), (1, 14), (2, 0), (2, 29)]
    wanted = torch.stack([8 * made.projections[i] @ made.tables[i][k] for i, k in rows]).view(2, 3, 64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert [tuple(table.shape) for table in made.tables] == [(5, 64), (15, 16), (30, 4)]


def test_without_cutoffs_it_is_a_plain_embedding_and_a_plain_softmax() -> None:
    made = model(())
    assert {name: tuple(value.shape) for name, value in made.named_parameters()} == {
        "embedding.tables.0": (50, 64),
        "head.bias": (50,),
    }
    tokens, h = torch.randint(50, (2, 9)), torch.randn(2, 9, 64, dtype=torch.float64)
    torch.testing.assert_close(made.embedding(tokens), 8 * F.embedding(tokens, made.embedding.tables[0]))
    logits = F.linear(h, made.embedding.tables[0], made.head.bias)
    torch.testing.assert_close(made.head.log_probs(h), logits.log_softmax(-1))
    torch.testing.assert_close(made.head.nats(h, tokens), F.cross_entropy(logits.mT, tokens, reduction="none"))


def test_every_parameter_has_a_gradient_also_where_a_cluster_has_no_target() -> None:
    """A process of several whose batch has no rare word must still take part in the sum of all gradients."""
    made = model((5, 20))
    made.head.nats(made.embedding(torch.tensor([1, 2])), torch.tensor([3, 4])).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert made.embedding.tables[2].grad.abs().max() == 0


class _Largest(TorchDispatchMode):
    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return result


def test_nats_never_make_the_logits_of_the_whole_vocabulary() -> None:
    made = Model(10_000, 16, (100, 1000))
    hidden, target = torch.randn(500, 16), torch.randint(100, (500,))
    target[0], target[1] = 500, 9_000
    with torch.no_grad(), _Largest() as largest:
        made.head.nats(hidden, target)
    assert largest.size < 500 * 200
    with torch.no_grad(), _Largest() as largest:
        made.head.log_probs(hidden)
    assert largest.size == 500 * 10_000


def test_shared_tables_are_saved_once_and_stay_shared_in_a_copy() -> None:
    made = model((5, 20))
    assert not any(name.startswith("head.") and ("tables" in name or "tied" in name) for name in made.state_dict())
    other = model((5, 20))
    other.load_state_dict(load(save(made.state_dict())))
    h, target = torch.randn(6, 64, dtype=torch.float64), torch.randint(50, (6,))
    for twin in (other, copy.deepcopy(made)):
        assert torch.equal(twin.head.nats(h, target), made.head.nats(h, target))
        twin.embedding.tables[0].data += 1
        assert not torch.equal(twin.head.nats(h, target), made.head.nats(h, target))


def test_logits_are_float32_also_where_the_products_are_not() -> None:
    made, h = Model(50, 64, (5, 20)), torch.randn(3, 64)
    target = torch.tensor([1, 10, 40])
    with torch.autocast("cpu", torch.bfloat16):
        embedded, found, nats = made.embedding(target), made.head.log_probs(h), made.head.nats(h, target)
    assert (embedded.dtype, found.dtype, nats.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3), rtol=1e-5, atol=0)
    assert (nats - made.head.nats(h, target)).abs().max() < 0.1


def test_dropout_is_for_training_alone() -> None:
    made = Model(50, 64, (5, 20), dropout=0.5)
    tokens, h = torch.randint(50, (40,)), torch.randn(40, 64)
    assert not torch.equal(made.embedding(tokens), made.embedding(tokens))
    assert not torch.equal(made.head.nats(h, tokens), made.head.nats(h, tokens))
    made.eval()
    assert torch.equal(made.embedding(tokens), made.embedding(tokens))
    assert torch.equal(made.head.nats(h, tokens), made.head.nats(h, tokens))


def test_a_fresh_model_is_nearly_uniform() -> None:
    """Vectors of moderate size, and a first loss near that of guessing."""
    made = Model(2000, 256, (400, 1000))
    tokens = torch.randint(2000, (3000,))
    embedded = made.embedding(tokens)
    assert 0.1 < embedded.std() < 1
    nats = made.head.nats(torch.randn(3000, 256), tokens).mean()
    # 402 choices in the head, then 600 or 1000 in the clusters; tokens are drawn uniformly.
    guessing = math.log(402) + 0.3 * math.log(600) + 0.5 * math.log(1000)
    assert abs(nats - guessing) < 0.5


@pytest.mark.parametrize("cutoffs", [(0,), (5, 5), (20, 5), (50,), (60,)])
def test_cutoffs_that_do_not_part_the_vocabulary_are_refused(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^the cutoffs are \[.*increasing numbers between 0 and the vocabulary of 50$"):
        AdaptiveEmbedding(50, 64, cutoffs)


def test_a_cluster_without_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"^3 cutoffs .* d_model = 63: expected fewer cutoffs or a wider model$"):
        AdaptiveEmbedding(50, 63, (5, 20, 33))


@pytest.mark.parametrize("token", [-1, 50])
@pytest.mark.parametrize("cutoffs", SHAPES)
def test_tokens_outside_the_vocabulary_are_errors(cutoffs: tuple[int, ...], token: int) -> None:
    made = model(cutoffs)
    with pytest.raises((IndexError, RuntimeError)):
        made.embedding(torch.tensor([3, token]))
    with pytest.raises((IndexError, RuntimeError)):
        made.head.nats(torch.randn(2, 64, dtype=torch.float64), torch.tensor([3, token]))


def test_the_parameters_for_wikitext_103_are_these() -> None:
    with torch.device("meta"):
        made = Model(267_735, 1024, (19_997, 39_997, 199_997))
    shapes = {name: tuple(value.shape) for name, value in made.named_parameters()}
    assert shapes == {
        "embedding.tables.0": (19_997, 1024),
        "embedding.tables.1": (20_000, 256),
        "embedding.tables.2": (160_000, 64),
        "embedding.tables.3": (67_738, 16),
        "embedding.projections.0": (1024, 1024),
        "embedding.projections.1": (1024, 256),
        "embedding.projections.2": (1024, 64),
        "embedding.projections.3": (1024, 16),
        "head.projection": (1024, 1024),
        "head.bias": (267_735,),
        "head.cluster_weight": (3, 1024),
        "head.cluster_bias": (3,),
    }


class Reference(nn.Module):
    """The fixture's network: embedding, pre-norm blocks [S4, S4, feed-forward] twice, norm, softmax."""

    def __init__(self, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
        super().__init__()
        H, self.kinds = config["d_model"], ["s4", "s4", "ff"] * config["n_layers"]
        self.ends = Model(config["vocab"], H, tuple(config["cutoffs"]))
        self.ends.load_state_dict(ends_of(weights))
        self.norms = nn.ModuleList(nn.LayerNorm(H) for _ in range(len(self.kinds) + 1))
        self.mixers, self.outputs = nn.ModuleList(), nn.ModuleList()
        for i, kind in enumerate(self.kinds):
            part = within(weights, f"model.layers.{i}.")
            self.norms[i].load_state_dict(within(part, "norm.norm."))
            if kind == "s4":
                self.mixers.append(s4(within(part, "layer."), config))
                self.outputs.append(GatedOutput(H, 0.0))
                self.outputs[i].linear.load_state_dict(within(part, "layer.output_linear.0."))  # type: ignore[union-attr]
            else:
                self.mixers.append(nn.Linear(H, 4 * H))
                self.outputs.append(nn.Sequential(nn.GELU(), nn.Linear(4 * H, H)))
                self.mixers[i].load_state_dict(within(part, "layer.ff.0.0."))
                self.outputs[i][1].load_state_dict(within(part, "layer.ff.2."))  # type: ignore[index]
        self.norms[-1].load_state_dict(within(weights, "model.norm.norm."))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.ends.embedding(tokens)
        for kind, norm, mixer, output in zip(self.kinds, self.norms[:-1], self.mixers, self.outputs, strict=True):
            y = mixer(norm(x))
            x = x + output(y[0] if kind == "s4" else y)
        return self.norms[-1](x)


def within(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def ends_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Embedding and softmax under our names; the reference has its clusters' logits in reverse order."""
    found = {
        "head.projection": weights["loss.out_projs.0"],
        "head.bias": torch.cat([weights[f"loss.out_layers_biases.{i}"] for i in range(4)]),
        "head.cluster_weight": weights["loss.cluster_weight"].flip(0),
        "head.cluster_bias": weights["loss.cluster_bias"].flip(0),
    }
    for i in range(4):
        found[f"embedding.tables.{i}"] = weights[f"encoder.0.emb_layers.{i}.weight"]
        found[f"embedding.projections.{i}"] = weights[f"encoder.0.emb_projs.{i}"]
    return found


def s4(weights: dict[str, Tensor], config: dict[str, Any]) -> S4:
    """Its l_kernel is set: what is stored as C is C (I - Abar^l)."""
    kernel = within(weights, "layer.kernel.")
    ssm = S4(
        config["d_model"],
        SSMConfig(
            d_state=config["d_state"],
            n_ssm=config["n_ssm"],
            init="legs",
            dt_transform=config["dt_transform"],
            decay=config["real_transform"],
        ),
    )
    found = {"raw_dt": kernel["inv_dt"][:, 0], "raw_decay": kernel["A_real"], "frequency": -kernel["A_imag"]}
    found |= {"B": kernel["B"][0], "C": kernel["C"][0], "D": weights["layer.D"][0], "P": kernel["P"]}
    ssm.load_state_dict(found)
    ssm = ssm.double()
    Lambda, B, C, dt = ssm.continuous()
    A = dplr.dense_transition(dplr.step_constants(Lambda, ssm.low_rank(), B, C, dt))
    truncation = torch.eye(A.shape[-1], dtype=A.dtype) - torch.linalg.matrix_power(A, int(kernel["l_kernel"]))
    ssm.C.data = torch.view_as_real(row_to_complex(torch.linalg.solve(truncation.transpose(1, 2), row(C))))
    return ssm


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="no reference fixtures here; set S4GEN_FIXTURES")
def test_a_whole_language_model_equals_the_reference() -> None:
    config = json.loads((FIXTURES / "ckpt_head_wt103.json").read_text())["config"]
    weights = torch.load(FIXTURES / "ckpt_head_wt103.pt", weights_only=True)
    want = np.load(FIXTURES / "ckpt_head_wt103.npz", allow_pickle=False)
    with torch.no_grad():
        network = Reference(weights, config).double()
        hidden = network(torch.from_numpy(want["tokens"]))
        log_probs = network.ends.head.log_probs(hidden)
        nats = network.ends.head.nats(hidden, torch.from_numpy(want["targets"]))
    wanted = torch.from_numpy(want["logprobs_f64"])
    assert (log_probs - wanted).abs().max() / wanted.abs().max() < 1e-12
    assert abs(float(nats.mean()) - float(want["nll_mean_f64"])) < 1e-12
