"""The layers for other people's models: one function in parallel, in chunks and in steps; compiled; saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s4gen.errors import UserError
from s4gen.layers import S4, S4D, load_layer

LAYERS: dict[str, Any] = {
    "S4D": lambda: S4D(6, d_state=8),
    "S4D, plain": lambda: S4D(6, d_state=4, init="inv", discretization="bilinear", mix=False, n_ssm=2, tie_dt=False),
    "S4": lambda: S4(6, d_state=8),
    "S4, transposed": lambda: S4(6, d_state=8, init="legt", transposed=True, decay="softplus", dt_transform="softplus"),
}


def shaken(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer


def sequences(layer: Any, L: int) -> Tensor:
    u = torch.randn(3, L, 6, dtype=torch.float64)
    return u.transpose(1, 2) if layer.transposed else u


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_in_parallel_in_chunks_and_in_steps_it_is_one_function(name: str) -> None:
    layer = shaken(LAYERS[name]()).double()
    axis = 2 if layer.transposed else 1
    u = sequences(layer, 37)
    whole, end = layer(u)
    assert whole.shape == u.shape
    state, outputs = None, []
    for chunk in u.split([20, 1, 16], axis):
        y, state = layer(chunk, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, axis), whole)
    torch.testing.assert_close(state, end)
    for steps in (layer, layer.recurrent()):
        state, outputs = steps.initial_state(3), []
        for u_t in u.unbind(axis):
            y, state = steps.step(u_t, state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, axis), whole)
        torch.testing.assert_close(state, end)


@torch.no_grad()
def test_rows_may_end_earlier() -> None:
    layer = shaken(S4(6, d_state=8)).double()
    u, lengths = sequences(layer, 9), torch.tensor([9, 0, 4])
    _, state = layer(u, None, lengths)
    for b, n in enumerate(lengths.tolist()):
        alone = layer(u[b : b + 1, :n])[1] if n else layer.initial_state(1)
        torch.testing.assert_close(state[b : b + 1], alone)


def test_it_trains_inside_of_another_model() -> None:
    """Its input and output are an ordinary layer's: here it learns to repeat its input three steps late."""

    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward, self.ssm, self.outward = nn.Linear(1, 16), S4D(16, d_state=16, dt_min=0.05), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.outward(self.ssm(self.inward(x))[0])

    model = Echo()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(60):
        x = torch.randn(16, 30, 1)
        loss = (model(x)[:, 3:] - x[:, :-3]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
@pytest.mark.parametrize("kind", [S4D, pytest.param(S4, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version
def test_it_compiles_without_a_graph_break_forward_and_backward(kind: Any, backend: str) -> None:
    """With fullgraph a break is an error. The quick backend builds both graphs and runs them as they are."""
    torch._dynamo.reset()
    layer = shaken(kind(6, d_state=4))
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    gradients = []
    for function in (layer, compiled):
        u = torch.ones(2, 20, 6, requires_grad=True)
        y, state = function(u, layer.initial_state(2) + 1)
        layer.zero_grad()
        (y.square().sum() + state.sum()).backward()
        gradients.append([y.detach(), u.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)
    stepped = torch.compile(layer.step, fullgraph=True, backend=backend)
    u, state = torch.ones(2, 6), layer.initial_state(2)
    torch.testing.assert_close(stepped(u, state), layer.step(u, state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_layer_comes_back(name: str, tmp_path: Path) -> None:
    layer = shaken(LAYERS[name]())
    layer.save(tmp_path / "layer")
    again = load_layer(tmp_path / "layer")
    assert type(again) is type(layer)
    u = sequences(layer, 5).float()
    with torch.no_grad():
        torch.testing.assert_close(again(u), layer(u), rtol=0, atol=0)
    with pytest.raises(UserError, match="exists; choose another name"):
        layer.save(tmp_path / "layer")


def test_forward_changes_no_parameter() -> None:
    layer = S4(6, d_state=8)
    before = [parameter.clone() for parameter in layer.parameters()]
    layer(torch.randn(2, 300, 6))
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S4D(6, d_state=3), "d_state = 3: expected an even number"),
        (lambda: S4D(6, n_ssm=4), "n_ssm = 4 does not divide d_model = 6"),
        (lambda: S4(6, init="lin"), "unknown measure 'lin'"),
        (lambda: S4D(6, discretization="euler"), 'discretization = "euler": expected one of auto, zoh, bilinear'),
        (
            lambda: S4D(6)(torch.zeros(2, 5, 7)),
            r"u has shape \(2, 5, 7\), expected \(batch, length >= 1, d_model = 6\)",
        ),
        (
            lambda: S4D(6)(torch.zeros(2, 5, 6), torch.zeros(1, 6, 64)),
            r"state has shape \(1, 6, 64\), expected \(2, 6, 64\)",
        ),
        (lambda: load_layer("checkpoints/mnist-small"), "describes no layer; .* s4gen.from_pretrained"),
    ],
)
def test_what_cannot_be_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        make()


def test_the_page_about_the_layers_runs() -> None:
    """Its blocks of Python, one after another."""
    page = (Path(__file__).parents[1] / "docs" / "layers.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert tuple(names["logits"].shape) == (8, 10)
    assert len(names["groups"][0]["params"]) == 4


@pytest.mark.parametrize("layer", [S4D, S4])
@pytest.mark.parametrize("d_model", [0, -3])
def test_a_layer_without_features_is_refused(layer: type[S4D | S4], d_model: int) -> None:
    with pytest.raises(ValueError, match=f"d_model = {d_model}: expected at least 1"):
        layer(d_model)
