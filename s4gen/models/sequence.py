"""The base of all models: a residual stack, and how it is run."""

from __future__ import annotations

import copy
import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)


class SequenceModel(nn.Module):
    """A model with a stack of blocks between what it reads and its head: a density model, or a predictor."""

    config: Any
    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False
        """In training, keep only the input of each block and compute the rest again for the gradient."""

    @property
    def device(self) -> torch.device:
        """The device on which the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model works in; an imported model keeps some parameters in a higher one."""
        return next(self.parameters()).dtype

    def initial_state(self, batch: int) -> Any:
        """Return the state of `batch` rows before anything was fed."""
        raise NotImplementedError

    def _blocks(self) -> list[Any]:
        return list(self.blocks)

    def _run_blocks(
        self, x: Tensor, states: tuple[Any, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run x r(B, L, H) through the stack from `states` (None: the start); return its output and the new states.

        With lengths int64 (B,), the states are those after that many inputs of each row.
        """
        recompute, after = self.recompute and self.training and torch.is_grad_enabled(), []
        for i, block in enumerate(self._blocks()):
            run = functools.partial(checkpoint, block, use_reentrant=False) if recompute else block
            x, state = run(x, None if states is None else states[i], lengths)
            after.append(state)
        return x, tuple(after)


def resampled(model: M, dt_factor: float) -> M:
    """Return a copy of the model with every dt multiplied by `dt_factor`, which reads the same signals at another rate.

    The factor 2 is for signals with half as many samples per second as the model was trained on: a step then stands for
    twice the time. A multi-scale stack pools as many samples as before, which then last twice as long.

    Raises:
        ValueError: `dt_factor` is not positive.
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if hasattr(module, "rescale_dt_"):
            module.rescale_dt_(dt_factor)  # type: ignore[operator]
    return copied
