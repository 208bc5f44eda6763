"""The WaveNet baseline: causal, and the same at once, in chunks and in steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sashimi import assert_same, by_chunks, by_steps, leaves
from torch import Tensor

from s4gen.models.wavenet import WaveNet, WaveNetState


def net(dtype: torch.dtype = torch.float64) -> WaveNet:
    """Dilations 1, 2, 4, 1, 2: ten places back."""
    return WaveNet(d_model=4, n_layers=5, d_skip=6, cycle=3).to(dtype)


def in_order(state: WaveNetState) -> list[Tensor]:
    """The inputs that a state remembers, oldest first: slots that nothing reads again may hold anything."""
    size = [ring.shape[1] for ring in state.rings]
    return [
        torch.stack([ring[b, (place + 1 + torch.arange(n - 1)) % n] for b, place in enumerate(state.position)])
        for ring, n in zip(state.rings, size, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_at_once_and_in_steps_are_the_same(dtype: torch.dtype) -> None:
    module, x = net(dtype), torch.randn(2, 33, 4, dtype=dtype)
    y, state = module(x)
    stepped, last = by_steps(module, x, module.initial_state(2))
    assert_same(stepped, y)
    assert_same(in_order(last), in_order(state))
    assert torch.equal(last.position, state.position)


@settings(max_examples=20)
@given(chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6))
@torch.no_grad()
def test_any_length_in_any_chunks_is_the_same(chunks: list[int]) -> None:
    module, x = net(), torch.randn(1, sum(chunks), 4, dtype=torch.float64)
    assert_same(by_chunks(module, x, chunks), module(x))


def test_an_output_depends_on_the_inputs_within_reach_and_no_later_ones() -> None:
    module, x = net(), torch.randn(1, 20, 4, dtype=torch.float64, requires_grad=True)
    y, _ = module(x)
    for t in range(20):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        reached = (gradient[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
        assert reached == list(range(max(0, t - 10), t + 1))


@torch.no_grad()
def test_rows_of_unequal_length_are_read_and_stepped_together() -> None:
    module, lengths = net(), torch.tensor([14, 0, 1, 5])
    x, more = torch.randn(4, 14, 4, dtype=torch.float64), torch.randn(4, 9, 4, dtype=torch.float64)
    y, state = module(x, None, lengths)
    stepped, _ = by_steps(module, more, state)
    for b, n in enumerate(lengths.tolist()):
        alone, _ = module(torch.cat((x[b, :n], more[b]))[None])
        assert_same(torch.cat((y[b, :n], stepped[b]))[None], alone)


@torch.no_grad()
def test_a_forward_pass_leaves_its_state_and_a_step_can_be_taken_again() -> None:
    """A step writes over what no state before it needs: of a failed one nothing remains."""
    module, x = net(), torch.randn(2, 30, 4, dtype=torch.float64)
    _, state = module(x[:, :20])
    before = [leaf.clone() for leaf in leaves(state)]
    whole, _ = module(x)
    module(x[:, 20:], state)
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))
    module.step(torch.full_like(x[:, 20], 99.0), state)
    stepped, _ = by_steps(module, x[:, 20:], state)
    assert_same(stepped, whole[:, 20:])


def test_gradients_are_right_and_reach_every_parameter() -> None:
    module, x = net(), torch.randn(1, 14, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*module.named_parameters(), strict=True)

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(outputs, (x, *values), fast_mode=True)
    outputs(x, *values).square().sum().backward()
    for name, value in zip(names, values, strict=True):
        assert value.grad is not None and value.grad.abs().sum() > 0, name


def test_the_number_of_parameters_is_as_written() -> None:
    """H and S wide, n layers: n (4 H^2 + 2 H + H^2 + H + H S + S) + S H + H; for choosing one of equal size."""
    H, S, n = 4, 6, 5
    expected = n * (5 * H * H + 3 * H + H * S + S) + S * H + H
    assert sum(parameter.numel() for parameter in net().parameters()) == expected


@torch.no_grad()
def test_a_saved_one_is_the_same_when_loaded() -> None:
    module, other, x = net(), net(), torch.randn(1, 20, 4, dtype=torch.float64)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x)[0], module(x)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@torch.no_grad()
def test_it_compiles_as_one_graph() -> None:
    module, x = net(torch.float32), torch.randn(2, 12, 4)
    torch._dynamo.reset()
    step = torch.compile(module.step, fullgraph=True, backend="aot_eager", dynamic=False)
    state, outputs = module.initial_state(2), []
    with torch._dynamo.config.patch(recompile_limit=1):
        for x_t in x.unbind(1):
            y, state = step(x_t, state)
            outputs.append(y)
    assert_same(torch.stack(outputs, 1), module(x)[0])
