"""The attention mixer keeps the contract of every mixer: forward == chunked == stepped, and causal."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from s4gen.models.attention import AttentionState, CausalAttention

BATCH, LENGTH, WIDTH = 2, 70, 24


@pytest.fixture
def mixer() -> CausalAttention:
    torch.manual_seed(0)
    return CausalAttention(WIDTH, n_heads=4)


@pytest.fixture
def u() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def naive(mixer: CausalAttention, u: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the positions up to each query; one query, head, sequence at a time."""
    query, key, value = mixer.qkv(u).chunk(3, dim=-1)
    heads = [slice(h * mixer.d_head, (h + 1) * mixer.d_head) for h in range(mixer.n_heads)]
    rows = []
    for b in range(u.shape[0]):
        for t in range(u.shape[1]):
            weights = [(key[b, : t + 1, h] @ query[b, t, h] / mixer.d_head**0.5).softmax(0) for h in heads]
            rows.append(torch.cat([w @ value[b, : t + 1, h] for w, h in zip(weights, heads, strict=True)]))
    return mixer.out(torch.stack(rows).view(u.shape))


def step_all(mixer: CausalAttention, u: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
    outputs = []
    for t in range(u.shape[1]):
        y, state = mixer.step(u[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@torch.no_grad()
def test_forward_is_softmax_attention_by_definition(mixer: CausalAttention, u: Tensor) -> None:
    torch.testing.assert_close(mixer(u)[0], naive(mixer, u), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[1], [69], [0, 33], [1, 2, 40]])
def test_chunked_forward_equals_one_forward(mixer: CausalAttention, u: Tensor, cuts: list[int]) -> None:
    whole, last = mixer(u)
    state, parts = None, []
    for chunk in torch.tensor_split(u, cuts, dim=1):
        if chunk.shape[1]:
            y, state = mixer(chunk, state)
            parts.append(y)
    assert state is not None and state.length == last.length == LENGTH
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.keys, last.keys)


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 3, LENGTH, LENGTH + 5])
def test_stepping_equals_forward_whatever_the_first_capacity(mixer: CausalAttention, u: Tensor, capacity: int) -> None:
    whole, _ = mixer(u)
    stepped, state = step_all(mixer, u, mixer.initial_state(BATCH, capacity))
    torch.testing.assert_close(stepped, whole, rtol=1e-5, atol=1e-6)
    assert state.length == LENGTH and state.keys.shape[2] >= LENGTH


@torch.no_grad()
def test_prefill_then_step_equals_forward(mixer: CausalAttention, u: Tensor) -> None:
    whole, _ = mixer(u)
    _, state = mixer(u[:, :31], mixer.initial_state(BATCH))
    stepped, _ = step_all(mixer, u[:, 31:], state)
    torch.testing.assert_close(stepped, whole[:, 31:], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_preallocated_cache_is_written_in_place(mixer: CausalAttention, u: Tensor) -> None:
    state = mixer.initial_state(BATCH, capacity=LENGTH)
    _, after = step_all(mixer, u, state)
    assert after.keys.data_ptr() == state.keys.data_ptr()


@torch.no_grad()
def test_forward_leaves_the_state_it_was_given_alone(mixer: CausalAttention, u: Tensor) -> None:
    _, state = step_all(mixer, u[:, :10], mixer.initial_state(BATCH, capacity=LENGTH))
    before = (state.keys.clone(), state.values.clone(), state.length)
    mixer(u[:, 10:], state)
    torch.testing.assert_close((state.keys, state.values, state.length), before, rtol=0, atol=0)


@pytest.mark.parametrize("first_chunk", [0, 3])
def test_no_output_depends_on_a_later_input(mixer: CausalAttention, first_chunk: int) -> None:
    """By gradients: dy_k / du_j is zero for j > k and not zero for j <= k, with and without a state."""
    u = torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(2), requires_grad=True)
    if first_chunk:
        head, state = mixer(u[:, :first_chunk])
        y = torch.cat((head, mixer(u[:, first_chunk:], state)[0]), dim=1)
    else:
        y, _ = mixer(u)
    for k in range(8):
        (gradient,) = torch.autograd.grad(y[0, k].sum(), u, retain_graph=True)
        touched = gradient[0].abs().amax(dim=-1) > 0
        assert touched.tolist() == [j <= k for j in range(8)]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="n_heads must divide d_model, got n_heads = 5, d_model = 24"):
        CausalAttention(24, n_heads=5)


def in_window(mixer: CausalAttention, u: Tensor) -> Tensor:
    """One query, head, sequence at a time: the last `window` positions, weighed down by distance times 2^(-8 h / n)."""
    query, key, value = mixer.qkv(u).chunk(3, dim=-1)
    rows = []
    for b, t, h in itertools.product(range(u.shape[0]), range(u.shape[1]), range(mixer.n_heads)):
        seen, head = slice(max(0, t + 1 - mixer.window), t + 1), slice(h * mixer.d_head, (h + 1) * mixer.d_head)
        distance = (t - torch.arange(t + 1))[seen]
        scores = key[b, seen, head] @ query[b, t, head] / mixer.d_head**0.5
        weights = (scores - distance * 2 ** (-8 * (h + 1) / mixer.n_heads)).softmax(0)
        rows.append(weights @ value[b, seen, head])
    return mixer.out(torch.stack(rows).view(u.shape))


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 7, 70, 200])
def test_a_window_is_attention_to_the_last_positions_in_any_chunks_and_in_steps(u: Tensor, window: int) -> None:
    mixer = CausalAttention(WIDTH, 4, window)
    wanted = in_window(mixer, u)
    state: AttentionState | None = None
    parts = []
    for chunk in u.tensor_split([3, 4, 40], dim=1):
        y, state = mixer(chunk, state)
        parts.append(y)
    stepped, last = step_all(mixer, u, mixer.initial_state(BATCH))
    first, state = mixer(u[:, :20])
    mixed, _ = step_all(mixer, u[:, 20:], state)
    for found in (mixer(u)[0], torch.cat(parts, 1), stepped, torch.cat((first, mixed), 1)):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert state.length == min(20, window - 1)
    assert last.keys.shape[2] <= max(64, 2 * window), "memory does not grow with the past"
