"""States as values: one way to walk, copy, choose, join and name them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from s4gen.models import states


class Cache(NamedTuple):
    keys: Tensor
    length: int


def state_of(first: float, rows: int = 3) -> tuple[object, ...]:
    x = torch.arange(rows * 2.0).view(rows, 2) + first
    return (x, (), (Cache(x.clone() * 10, 7), (x[:, 0].clone(),)))


def same(a: object, b: object) -> bool:
    pairs = zip(states.leaves(a), states.leaves(b), strict=True)
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)


def test_every_leaf_has_a_path_and_a_number() -> None:
    state = state_of(0)
    assert [path for path, _ in states.paths(state)] == ["0", "2.0.keys", "2.0.length", "2.1.0"]
    assert list(states.named(state)) == ["state.0", "state.1", "state.2", "state.3"]
    assert [id(leaf) for _, leaf in states.paths(state)] == [id(leaf) for leaf in states.leaves(state)]
    assert same(states.from_named(state_of(5, rows=1), states.named(state), 3), state)
    with pytest.raises(ValueError, match="part 0 of the state is not that of 2 rows"):
        states.from_named(state_of(5, rows=1), states.named(state), 2)


def test_the_structure_stays() -> None:
    for made in (states.copied(state_of(0)), states.chosen_rows(state_of(0), torch.tensor([0, 1, 2]))):
        assert same(made, state_of(0))
        assert isinstance(made[2][0], Cache)  # type: ignore[index]
        assert made[1] == ()


def test_rows_are_chosen_joined_and_merged() -> None:
    a, b = state_of(0), state_of(100)
    both = states.joined([a, b])
    assert same(states.chosen_rows(both, torch.arange(3)), a)
    assert same(states.chosen_rows(both, torch.arange(3, 6)), b)
    merged = states.where_rows(torch.tensor([True, False, True]), b, a)
    assert same(merged, states.chosen_rows(both, torch.tensor([3, 1, 5])))


def test_a_copy_shares_no_memory_and_a_detached_state_no_gradient() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    copy, cut = states.copied((x * 2, 4)), states.detached((x * 2, 4))
    assert copy[0].requires_grad
    assert not cut[0].requires_grad
    assert cut[1] == 4
    plain = (torch.ones(3, 2).t(), 1)
    assert states.contiguous(plain)[0].is_contiguous()
    assert states.copied(plain)[0].data_ptr() != plain[0].data_ptr()
