"""Two state space layers, one in each direction, for uses that see the whole sequence; density models cannot."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from s4gen.models.ssm_layers import check_lengths


class Bidirectional(nn.Module):
    """y_t = forward(u_1 .. u_t) + backward(u_L .. u_t); each direction has its own parameters.

    There is no state to carry from chunk to chunk, and no step: `initial_state` and `step` raise ValueError.
    """

    def __init__(self, forward_layer: nn.Module, backward_layer: nn.Module) -> None:
        super().__init__()
        self.forward_layer, self.backward_layer = forward_layer, backward_layer

    def forward(self, u: Tensor, state: None = None, lengths: Tensor | None = None) -> tuple[Tensor, None]:
        """Return y r(B, L, H) for u r(B, L, H). With lengths int64 (B,) rows end there, and y is 0 beyond.

        Raises:
            ValueError: a state is given, or the lengths do not fit.
        """
        if state is not None:
            _refuse("start from a state")
        if lengths is None:  # the gradient of `flip` is much faster than that of `gather`
            left, _ = self.forward_layer(u)
            right, _ = self.backward_layer(u.flip(1))
            return left + right.flip(1), None
        check_lengths(lengths, u)
        position = torch.arange(u.shape[1], device=u.device)
        inside = position < lengths[:, None]
        # Only what is inside is reversed: padding must not come before the row in the other direction.
        index = torch.where(inside, lengths[:, None] - 1 - position, position)[..., None].expand_as(u)
        left, _ = self.forward_layer(u)
        right, _ = self.backward_layer(u.gather(1, index))
        return (left + right.gather(1, index)) * inside[..., None], None

    def initial_state(self, batch: int) -> NoReturn:
        _refuse("start from a state")

    def step(self, u: Tensor, state: object) -> NoReturn:
        _refuse("be stepped")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"a bidirectional layer cannot {what}: its outputs depend on inputs to come; use a causal layer")
